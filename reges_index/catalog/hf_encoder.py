"""Sentence encoders that run here, as LlamaIndex embeddings.

Apart from `encoder` because importing it loads torch and sentence-transformers (seconds).
"""

from __future__ import annotations

import re
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

from reges_index.catalog.encoder_names import DEFAULT_ENCODER, EncoderName

__all__ = ["CPU_BATCH", "GPU_BATCH", "LocalEncoder", "no_loading_bar"]

# all-MiniLM-L6-v2 on one CPU thread, 384 ReDial items sorted by length: 14 s at 8, 16 s at 32, 23 s at 128.
CPU_BATCH = 8
GPU_BATCH = 128

# As on BGE's model cards (Xiao et al. 2023, arXiv 2309.07597); LlamaIndex has "question" for "sentence".
_BGE_ENGLISH = re.compile(r"BAAI/bge-(small|base|large)-en(-v1\.5)?")
_BGE_INSTRUCTION = "Represent this sentence for searching relevant passages: "


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
    _source: str = PrivateAttr()

    def __init__(self, name: str, source: str) -> None:
        with no_loading_bar():
            super().__init__(
                model_name=source,
                query_instruction=_query_instruction(name),
                text_instruction=get_text_instruct_for_model_name(name) or None,
                # The hub's own cache; by default LlamaIndex keeps a second one.
                cache_folder=constants.HF_HUB_CACHE,
                model_kwargs={"use_safetensors": True},
            )
        self.model_name = name
        self.embed_batch_size = CPU_BATCH if self._device == "cpu" else GPU_BATCH
        self._lock = threading.Lock()
        self._source = source

    @property
    def encoder_name(self) -> EncoderName:
        """What to load it by again."""
        known = self.model_name == DEFAULT_ENCODER
        return EncoderName("sentence-transformers", DEFAULT_ENCODER if known else self._source)

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


def _query_instruction(name: str) -> str | None:
    if _BGE_ENGLISH.fullmatch(name):
        return _BGE_INSTRUCTION
    return get_query_instruct_for_model_name(name) or None


@contextmanager
def no_loading_bar() -> Iterator[None]:
    """Keep transformers from drawing its "Loading weights" bar, then leave its setting as it was."""
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()
