"""Sentence encoders that run here, as LlamaIndex embeddings.

Apart from `encoder` because importing it loads torch and sentence-transformers (seconds).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from huggingface_hub import constants
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from llama_index.embeddings.huggingface.utils import (
    get_query_instruct_for_model_name,
    get_text_instruct_for_model_name,
)
from transformers.utils import logging as transformers_logging

__all__ = ["LocalEncoder"]

# all-MiniLM-L6-v2 on one CPU thread, 384 ReDial items sorted by length: 14 s at 8, 16 s at 32, 23 s at 128.
_CPU_BATCH = 8
_GPU_BATCH = 128


class LocalEncoder(HuggingFaceEmbedding):
    """`HuggingFaceEmbedding` that is safe to share between threads and can embed queries in batches.

    Parameters
    ----------
    name
        Name of the model on the hub; what a collection records, wherever the files were found.
    source
        What to load: a folder, or the name.
    """

    _lock: Any = PrivateAttr()

    def __init__(self, name: str, source: str) -> None:
        with _no_loading_bar():
            super().__init__(
                model_name=source,
                query_instruction=get_query_instruct_for_model_name(name) or None,
                text_instruction=get_text_instruct_for_model_name(name) or None,
                # The hub's own cache; by default LlamaIndex keeps a second one.
                cache_folder=constants.HF_HUB_CACHE,
                model_kwargs={"use_safetensors": True},
            )
        self.model_name = name
        self.embed_batch_size = _CPU_BATCH if self._device == "cpu" else _GPU_BATCH
        self._lock = threading.Lock()

    @classmethod
    def class_name(cls) -> str:
        """Name for LlamaIndex's serialization."""
        return "ReGeSLocalEncoder"

    def get_query_embeddings(self, queries: Sequence[str]) -> list[list[float]]:
        """Embed queries in batches; shape (n, dimension), normalized."""
        return self._embed(list(queries), prompt_name="query") if queries else []

    def _embed(self, inputs: list[str | BytesIO], prompt_name: str | None = None) -> list[list[float]]:
        # The fast tokenizer keeps its padding state inside, so two threads at once can break it. No retry as
        # in the base class: what fails here fails again, and it would wait for many seconds.
        with self._lock:
            vectors = self._model.encode(
                inputs,
                batch_size=self.embed_batch_size,
                prompt_name=prompt_name,
                normalize_embeddings=self.normalize,
                show_progress_bar=False,
            )
        rows: list[list[float]] = vectors.tolist()
        return rows


@contextmanager
def _no_loading_bar() -> Iterator[None]:
    """Keep transformers from drawing its "Loading weights" bar, then leave its setting as it was."""
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()
