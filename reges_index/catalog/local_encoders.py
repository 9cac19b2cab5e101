"""Encoders that run here, as LlamaIndex embeddings: sentence-transformers, and the paper's DPR.

Apart from `encoder` because importing it loads torch and transformers (seconds).
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, try_to_load_from_cache
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.utils import infer_torch_device
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from safetensors import SafetensorError
from transformers import AutoTokenizer, DPRContextEncoder, DPRQuestionEncoder
from transformers.utils import logging as transformers_logging

from reges_index.catalog.encoder_names import (
    DEFAULT_ENCODER,
    ENCODER_PRESETS,
    EncoderName,
    instructions_for,
    parse_encoder_name,
)
from reges_index.errors import ModelError

__all__ = ["CPU_BATCH", "GPU_BATCH", "DPREmbedding", "LocalEncoder", "no_loading_bar"]

logger = logging.getLogger(__name__)

_PAPER = parse_encoder_name(ENCODER_PRESETS["dpr"])

# all-MiniLM-L6-v2 on one CPU thread, 384 ReDial items sorted by length: 14 s at 8, 16 s at 32, 23 s at 128.
CPU_BATCH = 8
GPU_BATCH = 128


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
                # The hub's own cache; by default LlamaIndex keeps a second one.
                cache_folder=constants.HF_HUB_CACHE,
                model_kwargs={"use_safetensors": True},
            )
        query, text = _instructions(name, source)
        self.query_instruction, self.text_instruction = query or None, text or None
        self._model.prompts = {"query": query, "text": text}
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


def _instructions(name: str, source: str) -> tuple[str, str]:
    """Return what goes before queries and texts: as the model itself stores it, or else as its card says."""
    file = Path(source) / "config_sentence_transformers.json"
    found = file if Path(source).is_dir() else try_to_load_from_cache(source, file.name)
    stored: dict[str, str] = {}
    if isinstance(found, (str, Path)) and Path(found).is_file():
        stored = json.loads(Path(found).read_text("utf-8")).get("prompts") or {}
    query = stored.get("query") or ""
    text = next((stored[key] for key in ("document", "passage", "text", "corpus") if stored.get(key)), "")
    if query or text:
        return query, text
    told = instructions_for(name) or instructions_for(source)
    if told is None:
        logger.warning(
            "encoder %r stores no instructions and is not known here: if its card asks for one before "
            "queries or texts, pass HuggingFaceEmbedding(..., query_instruction=..., text_instruction=...)",
            name,
        )
        return "", ""
    return told.query, told.text


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


class DPREmbedding(BaseEmbedding):
    """Dense Passage Retrieval (Karpukhin et al. 2020, arXiv 2004.04906) as a LlamaIndex embedding.

    Queries go through the question encoder, items through the context encoder; the vector is that of the
    first token (``[CLS]``), as in training. Texts longer than the encoders' 512 tokens lose their end.

    Parameters
    ----------
    question_encoder, context_encoder
        Hub names or folders; by default those trained on Natural Questions alone.
    device
        None is a GPU if there is one.

    Raises
    ------
    ModelError
        If a side cannot be loaded, or is not the side that it is named as. Only safetensors are read.

    Notes
    -----
    DPR was trained for the inner product; catalogs here compare by cosine, as the paper's figure 7 does.
    May be used by several threads.
    """

    question_encoder: str = Field(description="name or folder of the question side")
    context_encoder: str = Field(description="name or folder of the context side")

    _question: _Side = PrivateAttr()
    _context: _Side = PrivateAttr()

    def __init__(
        self,
        question_encoder: str = _PAPER.model,
        context_encoder: str = _PAPER.context,
        *,
        device: str | None = None,
        **fields: Any,
    ) -> None:
        place = device or infer_torch_device()
        fields.setdefault("embed_batch_size", CPU_BATCH if place == "cpu" else GPU_BATCH)
        fields.setdefault("model_name", f"dpr:{question_encoder},{context_encoder}")
        sides = {"question_encoder": question_encoder, "context_encoder": context_encoder}
        super().__init__(**{**fields, **sides})
        self._question = _Side(DPRQuestionEncoder, question_encoder, place)
        self._context = _Side(DPRContextEncoder, context_encoder, place)
        if self._question.dimension != self._context.dimension:
            raise ModelError(
                f"{question_encoder} makes vectors of {self._question.dimension} numbers, "
                f"{context_encoder} of {self._context.dimension}",
                hint="name two encoders that were trained together",
            )

    @classmethod
    def class_name(cls) -> str:
        """Name for LlamaIndex's serialization."""
        return "ReGeSDPREmbedding"

    @property
    def encoder_name(self) -> EncoderName:
        """What to load it by again."""
        return EncoderName("dpr", self.question_encoder, context=self.context_encoder)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._question.dimension

    def get_query_embeddings(self, queries: Sequence[str]) -> list[list[float]]:
        """Embed queries in batches; shape (n, dimension), not normalized."""
        return self._question.embed(queries, self.embed_batch_size)

    def _get_query_embedding(self, query: str) -> list[float]:
        return self.get_query_embeddings([query])[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._context.embed(texts, self.embed_batch_size)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


class _Side:
    """One of the two encoders, with its tokenizer and a lock."""

    def __init__(self, kind: Any, source: str, device: str) -> None:
        try:
            with no_loading_bar():
                self._tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
                model, loaded = kind.from_pretrained(source, use_safetensors=True, output_loading_info=True)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
            raise ModelError(
                f"DPR encoder {source!r} cannot be loaded: {error}",
                hint="name a folder or hub repository of a DPR encoder with safetensors weights; one that "
                "has only pytorch_model.bin must be converted once with save_pretrained",
            ) from error
        if loaded["missing_keys"]:  # transformers has filled these with random numbers
            raise ModelError(
                f"{source!r} holds no {kind.__name__}: it lacks {len(loaded['missing_keys'])} of its tensors",
                hint="question and context encoder are two models; name each on its own side",
            )
        self._model = model.to(device).eval()
        self._device = device
        self._longest = int(model.config.max_position_embeddings)
        self.dimension = int(model.config.projection_dim or model.config.hidden_size)
        # A fast tokenizer keeps its padding state inside, so two threads at once can break it.
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str], batch_size: int) -> list[list[float]]:
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]), reverse=True)
        vectors: list[list[float]] = [[] for _ in texts]
        with self._lock, torch.inference_mode():
            for start in range(0, len(order), batch_size):
                batch = order[start : start + batch_size]
                inputs = self._tokenizer(
                    [texts[index] for index in batch],
                    padding=True,
                    truncation=True,
                    max_length=self._longest,
                    return_tensors="pt",
                ).to(self._device)
                pooled = self._model(**inputs).pooler_output.float().tolist()
                for index, vector in zip(batch, pooled, strict=True):
                    vectors[index] = vector
        return vectors
