"""A base model and its tokenizer, from disk into memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from reges_index.errors import ModelError
from reges_index.models.device import pick_device, pick_dtype
from reges_index.models.embedded import resolve_base
from reges_index.models.quiet import no_progress_bars

__all__ = ["load_base"]


def load_base(
    name_or_path: str | Path | None,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    revision: str | None = None,
) -> tuple[Any, Any, str]:
    """Load a causal LM.

    Parameters
    ----------
    name_or_path, revision
        As for :func:`~reges_index.models.embedded.resolve_base`.
    dtype, device
        As for :func:`~reges_index.models.device.pick_dtype` and ``pick_device``.

    Returns
    -------
    tuple
        The model, its tokenizer, and what adapters call it.

    Raises
    ------
    ModelError
        If it cannot be loaded. Only safetensors are read, and no code that a model folder brings.
    """
    base = resolve_base(None if name_or_path is None else str(name_or_path), revision=revision)
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
    return model.to(place), tokenizer, base.name
