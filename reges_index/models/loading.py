"""A base model from disk into memory, and a GGUF into a folder that loads in about two seconds.

transformers reads a GGUF by de-quantizing it, which takes some 20 s for SmolLM2-135M. The result is kept in
the user's cache folder as bf16 safetensors with tokenizer, chat template and generation config.
"""

from __future__ import annotations

import contextlib
import logging
import os
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from filelock import FileLock
from platformdirs import user_cache_path
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers import modeling_gguf_pytorch_utils as gguf_reader
from transformers.utils import logging as transformers_logging

from reges_index.errors import ConfigError, InputError, ModelError, StorageError
from reges_index.files import sha256_of, whole_folder

if TYPE_CHECKING:
    from reges_index.models.embedded import BaseLocation

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
"""Raise it when the content of converted folders changes: old ones are then left alone and not used."""

_DTYPES = {
    **dict.fromkeys(("bfloat16", "bf16"), torch.bfloat16),
    **dict.fromkeys(("float16", "fp16"), torch.float16),
    **dict.fromkeys(("float32", "fp32"), torch.float32),
}


def cache_folder() -> Path:
    """Return the folder for converted models: ``REGES_CACHE`` if set, else the user's cache folder."""
    chosen = os.environ.get("REGES_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache_path("reges-index", appauthor=False)


def converted(gguf: Path) -> Path:
    """Return the Hugging Face folder made of ``gguf``, converting it the first time.

    The folder's name is made of the file's SHA-256 and the format version, so another file never meets an
    old conversion. Of two processes that want it at once the second one waits for the first.

    Raises
    ------
    StorageError
        If the cache cannot be written.
    ModelError
        If the file is not a GGUF that transformers can read.
    """
    try:
        digest = sha256_of(gguf)
    except InputError as problem:
        raise ModelError(
            f"{gguf} cannot be read ({problem.message})", hint="check the file and its rights"
        ) from problem
    root = cache_folder()
    target = root / f"{gguf.stem}-{digest[:16]}-v{FORMAT_VERSION}"
    if target.is_dir():
        return target
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{target.name}.lock"):
            if not target.is_dir():
                logger.info("converting %s once into %s (about 20 seconds)", gguf.name, target)
                with whole_folder(target) as work, no_progress_bars():
                    _convert(gguf, work)
                    for file in work.iterdir():  # safetensors writes for the owner alone
                        file.chmod(0o644)
    except (OSError, SafetensorError) as problem:
        # safetensors reports a full disk as an error of its own, which is no OSError.
        reason = getattr(problem, "message", None) or getattr(problem, "strerror", None) or problem
        raise StorageError(
            f"cannot write the converted model into {root}: {reason}",
            hint="free about 300 MB there, or set REGES_CACHE to a folder that can be written",
        ) from problem
    return target


def _convert(gguf: Path, folder: Path) -> None:
    """De-quantize ``gguf`` and save it as bf16 safetensors; OSError is a matter of the disk."""
    # Newer transformers may leave weights in their blocks, to compute in them; this asks for plain ones.
    plain = getattr(transformers, "GgufConfig", None)
    options = {"quantization_config": plain(dequantize=True)} if plain else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        loaded = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, **options
        )
    except (OSError, ValueError, LookupError, RuntimeError, ImportError, struct.error) as problem:
        # transformers raises OSError without a number for files that it cannot make sense of.
        if getattr(problem, "errno", None) is not None:
            raise
        raise ModelError(
            f"{gguf} cannot be read as a GGUF model: {problem}",
            hint="install the package again, or name another model",
        ) from problem
    # A model that remembers having been quantized cannot be saved, so its weights move into a fresh one.
    fields = {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    model = type(loaded)(type(loaded.config)(**fields)).to(torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Turn transformers' progress bars off for the block, then back as they were."""
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    # The GGUF reader has a bar of its own, which that switch does not reach.
    bar = getattr(gguf_reader, "tqdm", None)
    if bar is not None:
        gguf_reader.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        if bar is not None:
            gguf_reader.tqdm = bar
        if enabled:
            transformers_logging.enable_progress_bar()


# -- from disk into memory -----------------------------------------------------------------------------------


def load_base(
    base: BaseLocation, *, dtype: str | torch.dtype = "auto", device: str | torch.device = "auto"
) -> tuple[Any, Any]:
    """Load a causal LM and its tokenizer.

    Raises
    ------
    ModelError
        If it cannot be loaded. Only safetensors are read, and no code that a model folder brings.
    """
    place = pick_device(device)
    try:
        with no_progress_bars():
            tokenizer = AutoTokenizer.from_pretrained(base.path, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(
                base.path, dtype=pick_dtype(dtype, place), use_safetensors=True, trust_remote_code=False
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as problem:
        raise ModelError(
            f"{base.name} (in {base.path}) cannot be loaded: {problem}",
            hint="the folder must hold config.json, a tokenizer and *.safetensors of a causal LM",
        ) from problem
    return model.to(place), tokenizer


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device; "auto" is the first CUDA GPU, else Apple's, else the CPU.

    Raises
    ------
    ConfigError
        For a device that torch does not know or that is not here.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as problem:
        # torch built without CUDA raises AssertionError.
        raise ConfigError(
            f"device {device!r} cannot be used: {problem}", hint='use "auto", "cpu" or "cuda:0"'
        ) from problem
    return chosen


def pick_dtype(dtype: str | torch.dtype = "auto", device: torch.device | None = None) -> torch.dtype:
    """Return the number format; "auto" is bf16 where the hardware computes in it, else fp32.

    On a CPU that is AVX512-BF16 or AMX. Elsewhere bf16 is emulated and slower than fp32.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return torch.bfloat16 if _native_bf16(device or torch.device("cpu")) else torch.float32
    if dtype not in _DTYPES:
        raise ConfigError(f"dtype {dtype!r} is not known", hint=f"use auto, {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


def _native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    # Private, but the only ones that ask cpuid; a torch without them computes in fp32.
    checks = (
        getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return any(check() for check in checks if check is not None)
