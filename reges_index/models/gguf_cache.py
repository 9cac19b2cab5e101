"""A GGUF file converted once into a Hugging Face folder that loads in about two seconds.

transformers reads a GGUF by de-quantizing it, which takes some 20 s for SmolLM2-135M. The result is kept in
the user's cache folder as bf16 safetensors with tokenizer, chat template and generation config.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import struct
import tempfile
from pathlib import Path

import torch
import transformers
from platformdirs import user_cache_path
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from reges_index.errors import ModelError, StorageError
from reges_index.models.quiet import no_progress_bars

__all__ = ["cache_folder", "converted"]

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
"""Raise it when the content of converted folders changes: old ones are then left alone and not used."""

_DONE = "reges_converted.txt"
"""Written last; a folder without it is not a finished conversion."""


def cache_folder() -> Path:
    """Return the folder for converted models: ``REGES_CACHE`` if set, else the user's cache folder."""
    chosen = os.environ.get("REGES_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache_path("reges-index", appauthor=False)


def converted(gguf: Path) -> Path:
    """Return the Hugging Face folder made of ``gguf``, converting it the first time.

    The folder's name is made of the file's SHA-256 and the format version, so another file never meets an
    old conversion. It is written to a temporary folder and renamed, so it is whole or not there; of two
    processes that convert at once, the second finds the first one's result and uses that.

    Parameters
    ----------
    gguf
        The file.

    Returns
    -------
    Path
        A folder for ``from_pretrained``.

    Raises
    ------
    StorageError
        If the cache cannot be written.
    ModelError
        If the file is not a GGUF that transformers can read.
    """
    root = cache_folder()
    target = root / f"{gguf.stem}-{_sha256(gguf)[:16]}-v{FORMAT_VERSION}"
    if (target / _DONE).is_file():
        return target
    logger.info("converting %s once into %s (about 20 seconds)", gguf.name, target)
    try:
        root.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=root))
    except OSError as problem:
        raise _unwritable(root, problem) from problem
    try:
        with no_progress_bars():
            _convert(gguf, work)
        (work / _DONE).write_text(f"{gguf.name} format {FORMAT_VERSION}\n", encoding="utf-8")
        # mkdtemp and safetensors write for the owner alone; others may read what they could convert too.
        for file in work.iterdir():
            file.chmod(0o644)
        work.chmod(root.stat().st_mode & 0o777)
        _move_into_place(work, target)
    except (OSError, SafetensorError) as problem:
        # safetensors reports a full disk as an error of its own, which is no OSError.
        raise _unwritable(root, problem) from problem
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _move_into_place(work: Path, target: Path) -> None:
    if target.exists() and not (target / _DONE).is_file():
        # Left by something else than this function, which renames whole folders only.
        shutil.rmtree(target)
    try:
        work.replace(target)
    except OSError:
        # Another process was faster. Its folder is as good as this one.
        if not (target / _DONE).is_file():
            raise


def _unwritable(root: Path, problem: Exception) -> StorageError:
    return StorageError(
        f"cannot write the converted model into {root}: {getattr(problem, 'strerror', None) or problem}",
        hint="free about 300 MB there, or set REGES_CACHE to a folder that can be written",
    )


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
    except OSError as problem:
        # transformers raises OSError without a number for files that it cannot make sense of.
        if problem.errno is not None:
            raise
        raise _unreadable(gguf, problem) from problem
    except (ValueError, LookupError, RuntimeError, ImportError, struct.error) as problem:
        raise _unreadable(gguf, problem) from problem
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


def _unreadable(gguf: Path, problem: Exception) -> ModelError:
    return ModelError(
        f"{gguf} cannot be read as a GGUF model: {problem}",
        hint="install the package again, or name another model",
    )


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise ModelError(
            f"{path} cannot be read: {problem.strerror or problem}", hint="check the file and its rights"
        ) from problem
