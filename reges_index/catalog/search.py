"""Nearest items of a Chroma collection with true cosine scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from chromadb import Collection

from reges_index.catalog.collection import space_of
from reges_index.catalog.handle import StoreHandle
from reges_index.catalog.store import store_errors
from reges_index.catalog.stores.base import Hits, Stored, cosines, search_size
from reges_index.errors import CatalogError

__all__ = ["search", "search_store"]

# Vectors that go to Chroma in one call; bounds what comes back at once.
_QUERY_BATCH = 64


class ShortIndexError(CatalogError):
    """The vector index holds fewer rows than the collection."""


def search_store(
    store: StoreHandle,
    name: str,
    vectors: Sequence[Sequence[float]],
    top_k: int,
    *,
    where: dict[str, Any] | None = None,
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
    where: dict[str, Any] | None = None,
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
        Whether to return the rows, and their vectors in them.

    Raises
    ------
    InputError
        If `top_k` is below 1.
    CatalogError
        If the index does not hold all rows of the collection.
    """
    count = collection.count()
    wanted = search_size(top_k, count)
    if not vectors or count == 0:
        return [Hits([], [], []) for _ in vectors]
    foreign_space = space_of(collection) != "cosine"
    include = ["distances"]
    include += ["documents", "metadatas"] if with_rows else []
    include += ["embeddings"] if with_vectors or foreign_space else []
    hits: list[Hits] = []
    for start in range(0, len(vectors), _QUERY_BATCH):
        batch = list(vectors[start : start + _QUERY_BATCH])
        found: dict[str, Any] = dict(
            collection.query(query_embeddings=batch, n_results=wanted, where=where, include=include)
        )
        for position, query in enumerate(batch):
            one = _hits(found, position, query if foreign_space else None)
            # Counted again because rows may have been deleted meanwhile.
            if where is None and len(one.ids) < min(wanted, collection.count()):
                raise ShortIndexError(
                    f"catalog {collection.name!r} has {count} items, but its vector index found "
                    f"{len(one.ids)} of the {wanted} asked for",
                    hint="the store is damaged: delete it and index the items again",
                )
            hits.append(one)
    return hits


def _hits(found: dict[str, Any], position: int, cosine_with: Sequence[float] | None) -> Hits:
    ids: list[str] = found["ids"][position]
    with_rows = found.get("documents") is not None
    raw = found.get("embeddings")
    vectors = None if raw is None else np.asarray(raw[position], dtype=np.float64).reshape(len(ids), -1)
    if cosine_with is None:
        scores = np.clip(1.0 - np.asarray(found["distances"][position], dtype=np.float64), -1.0, 1.0)
        order = np.arange(len(ids))
    else:
        assert vectors is not None  # asked for above whenever the space is not cosine
        scores = cosines(cosine_with, vectors)
        order = np.argsort(-scores, kind="stable")
    rows = []
    if with_rows:
        documents, metadatas = found["documents"][position], found["metadatas"][position]
        rows = [
            Stored(ids[n], documents[n], metadatas[n], None if vectors is None else vectors[n]) for n in order
        ]
    return Hits([ids[n] for n in order], [float(scores[n]) for n in order], rows)
