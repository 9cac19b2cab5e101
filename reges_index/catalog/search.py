"""Nearest items of a collection with true cosine scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from chromadb import Collection

from reges_index.catalog.collection import space_of
from reges_index.catalog.filters import Where
from reges_index.catalog.handle import StoreHandle
from reges_index.catalog.store import store_errors
from reges_index.errors import CatalogError, InputError

__all__ = ["Hits", "search", "search_store"]

# Vectors that go to Chroma in one call; bounds what comes back at once.
_QUERY_BATCH = 64


class Hits(NamedTuple):
    """What was found for one query, best first.

    Parameters
    ----------
    ids
        Ids of the rows.
    scores
        Cosine similarities, -1 to 1.
    documents, metadatas
        Of the rows; empty unless asked for.
    vectors
        Of the rows, shape (n, dimension); None unless asked for.
    """

    ids: list[str]
    scores: list[float]
    documents: list[str | None]
    metadatas: list[dict[str, Any] | None]
    vectors: np.ndarray[Any, Any] | None


class ShortIndexError(CatalogError):
    """The vector index holds fewer rows than the collection."""


def search_store(
    store: StoreHandle,
    name: str,
    vectors: Sequence[Sequence[float]],
    top_k: int,
    *,
    where: Where | None = None,
    with_rows: bool = True,
    with_vectors: bool = False,
) -> list[Hits]:
    """Search a collection of a store as `search` does.

    Programs that do not use this package write without notice, so an index that lacks rows is read anew once
    before it counts as damaged.
    """

    def attempt() -> list[Hits]:
        with store_errors(f"catalog {name!r} in {store.location}"), store.reading() as client:
            collection = client.get_collection(name, embedding_function=None)
            return search(
                collection, vectors, top_k, where=where, with_rows=with_rows, with_vectors=with_vectors
            )

    try:
        return attempt()
    except ShortIndexError:
        if not store.refresh():
            raise
        return attempt()


def search(
    collection: Collection,
    vectors: Sequence[Sequence[float]],
    top_k: int,
    *,
    where: Where | None = None,
    with_rows: bool = True,
    with_vectors: bool = False,
) -> list[Hits]:
    """Find the nearest rows of each vector.

    Parameters
    ----------
    collection
        Of any space; where it is not cosine, the rows that Chroma finds are scored and ordered by cosine.
    vectors
        Queries, shape (n, dimension).
    top_k
        At least 1. More than there are rows returns all of them.
    where
        Chroma filter.
    with_rows, with_vectors
        Whether to return the rows and their vectors too.

    Raises
    ------
    InputError
        If `top_k` is below 1.
    CatalogError
        If the index does not hold all rows of the collection.
    """
    if top_k < 1:
        raise InputError(f"top_k is {top_k}", hint="ask for at least one item")
    count = collection.count()
    if not vectors or count == 0:
        return [Hits([], [], [], [], None) for _ in vectors]
    foreign_space = space_of(collection) != "cosine"
    include = ["distances"]
    include += ["documents", "metadatas"] if with_rows else []
    include += ["embeddings"] if with_vectors or foreign_space else []
    hits: list[Hits] = []
    for start in range(0, len(vectors), _QUERY_BATCH):
        batch = list(vectors[start : start + _QUERY_BATCH])
        found: dict[str, Any] = dict(
            collection.query(
                query_embeddings=batch, n_results=min(top_k, count), where=where, include=include
            )
        )
        for position, query in enumerate(batch):
            one = _hits(found, position, query if foreign_space else None)
            # Counted again because rows may have been deleted meanwhile.
            if where is None and len(one.ids) < min(top_k, count, collection.count()):
                raise ShortIndexError(
                    f"catalog {collection.name!r} has {count} items, but its vector index found "
                    f"{len(one.ids)} of the {min(top_k, count)} asked for",
                    hint="the store is damaged: delete it and index the items again",
                )
            hits.append(one)
    return hits


def _hits(found: dict[str, Any], position: int, cosine_with: Sequence[float] | None) -> Hits:
    ids: list[str] = found["ids"][position]
    documents = found["documents"][position] if found.get("documents") is not None else []
    metadatas = found["metadatas"][position] if found.get("metadatas") is not None else []
    rows = found.get("embeddings")
    vectors = None if rows is None else np.asarray(rows[position], dtype=np.float64).reshape(len(ids), -1)
    if cosine_with is None:
        scores = 1.0 - np.asarray(found["distances"][position], dtype=np.float64)
        order = np.arange(len(ids))
    else:
        assert vectors is not None  # asked for above whenever the space is not cosine
        scores = _cosine(np.asarray(cosine_with, dtype=np.float64), vectors)
        order = np.argsort(-scores, kind="stable")
    scores = np.clip(scores, -1.0, 1.0)  # rounding leaves 1 + 1e-7
    return Hits(
        [ids[index] for index in order],
        [float(scores[index]) for index in order],
        [documents[index] for index in order] if documents else [],
        [metadatas[index] for index in order] if metadatas else [],
        None if vectors is None else vectors[order],
    )


def _cosine(query: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
    scores: np.ndarray[Any, Any] = np.divide(
        rows @ query,
        norms,
        out=np.zeros(len(rows)),
        where=norms > 0,  # a zero vector resembles nothing
    )
    return scores
