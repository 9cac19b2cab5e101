"""Keeps libraries below from writing progress bars where this package only logs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

from transformers import modeling_gguf_pytorch_utils as gguf_reader
from transformers.utils import logging as transformers_logging

__all__ = ["no_progress_bars"]


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
