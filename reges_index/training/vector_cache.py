"""`VectorCache`: vectors by text, kept in a folder between runs."""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch

from reges_index.catalog import resolve_encoder
from reges_index.catalog.encoder import embed_queries, encoder_identity
from reges_index.errors import InputError
from reges_index.files import write_files

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
_CHUNK = 512


class VectorCache:
    """Vectors by text, kept in a folder: one file for each kind of text and encoder, written as they come.

    Parameters
    ----------
    folder
        Made if need be.
    encoder
        As for `resolve_encoder`; it is loaded only when something is missing.

    Raises
    ------
    InputError
        If a file of vectors cannot be read.
    StorageError
        If vectors cannot be written.
    """

    def __init__(self, folder: Path, encoder: BaseEmbedding | str) -> None:
        self._folder, self._encoder = folder, encoder
        self._identity = encoder_identity(encoder)

    def get(self, kind: Literal["text", "query"], texts: Sequence[str]) -> Floats:
        """Return unit vectors of items' texts or of queries, shape (n, d)."""
        if not texts:
            return np.zeros((0, self._identity.dimension), dtype=np.float32)
        name = hashlib.sha256(f"{self._identity}|{kind}".encode()).hexdigest()[:16]
        file = self._folder / f"{kind}-{name}.npz"
        known = _read_vectors(file)
        keys = [hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest() for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        for start in range(0, len(missing), _CHUNK):
            part = list(missing)[start : start + _CHUNK]
            rows = self._embed(kind, [missing[key] for key in part])
            known |= dict(zip(part, rows / np.linalg.norm(rows, axis=1, keepdims=True), strict=True))
            _write_vectors(file, known)
            logger.info("embedded %d of %d %s texts", start + len(part), len(missing), kind)
        return np.stack([known[key] for key in keys])

    def _embed(self, kind: str, texts: list[str]) -> Floats:
        model = resolve_encoder(self._encoder)
        # Half precision is twice as fast on newer CPUs, and moves a cosine by about a thousandth.
        with torch.autocast("cpu", torch.bfloat16):
            rows = embed_queries(model, texts) if kind == "query" else model.get_text_embedding_batch(texts)
        return np.asarray(rows, dtype=np.float32)


def _read_vectors(file: Path) -> dict[str, Floats]:
    if not file.exists():
        return {}
    try:
        with np.load(file, allow_pickle=False) as kept:
            return dict(zip(kept["keys"].tolist(), kept["vectors"], strict=True))
    except (zipfile.BadZipFile, EOFError, KeyError, OSError, ValueError) as error:
        raise InputError(
            f"{file} cannot be read ({error})", hint="delete it, or name another cache in the recipe"
        ) from error


def _write_vectors(file: Path, vectors: Mapping[str, Floats]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, keys=np.array(list(vectors)), vectors=np.stack(list(vectors.values())))
    write_files({file: buffer.getvalue()})
