"""A catalog in Chroma: a folder, memory, or a server."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
from chromadb import Collection

from reges_index.catalog.encoder import EncoderIdentity
from reges_index.catalog.filters import Filter, Group, facet
from reges_index.catalog.place import StoreLocation, store_errors
from reges_index.catalog.stores.base import (
    FACETS_KEY,
    FORMAT,
    HASH_KEY,
    Hit,
    Row,
    Stored,
    Table,
    Wanted,
    rescored,
)
from reges_index.catalog.stores.chroma_store import StoreHandle, delete_collection, explained
from reges_index.errors import CatalogError

_FORMAT_KEY, _NOTE_KEY = "reges_format", "reges_note"

# Vectors that go to Chroma in one call; bounds what comes back at once.
_QUERY_BATCH = 64
_SIGNS = {">": "$gt", "<": "$lt", ">=": "$gte", "<=": "$lte"}

# 20,000 random vectors: recall@10 was 0.59 with Chroma's defaults and 0.999 with these. Only ef_search can be
# changed once a collection is made.
_HNSW = {"space": "cosine", "ef_search": 500, "ef_construction": 400, "max_neighbors": 64}


class ShortIndexError(CatalogError):
    """The vector index holds fewer rows than the collection."""


class ChromaTable(Table):
    """A Chroma collection as a `Table`.

    Parameters
    ----------
    store
        The open store.
    name
        Of the collection.
    """

    def __init__(self, store: StoreHandle, name: str) -> None:
        super().__init__(name)
        self.place = str(store.location)
        # Folders have one handle in a process, memories one each, and a server as many as there are catalogs.
        self.home: Hashable = store if store.location.url is None else store.location
        self.batch_size = store.batch_size
        self._store = store

    @classmethod
    def at(cls, location: StoreLocation, name: str, *, create: bool) -> ChromaTable:
        """Open the store of a table; errors are those of `reges_index.catalog.stores.table_at`."""
        where = f"catalog {name!r} in {location}"
        with store_errors(where, lambda error: explained(where, error, location.persist_dir)):
            return cls(StoreHandle.of(location, create=create), name)

    def sibling(self, name: str) -> ChromaTable:
        """Return another collection of the same store."""
        return ChromaTable(self._store, name)

    def names(self) -> list[str]:
        """Names of all collections, sorted."""
        with self._errors(), self._store.reading() as client:
            return sorted(found.name for found in client.list_collections())

    def _create(self, identity: EncoderIdentity) -> None:
        note = json.dumps({"encoder": asdict(identity), "complete": False})
        with self._errors(), self._store.reading() as client:
            client.create_collection(
                self.name,
                metadata={_FORMAT_KEY: FORMAT, _NOTE_KEY: note},
                configuration={"hnsw": _HNSW},
                embedding_function=None,
            )

    def _note(self) -> dict[str, Any] | None:
        with self._collection() as collection:
            metadata = collection.metadata or {}
        if _FORMAT_KEY not in metadata:
            return None
        told: dict[str, Any] = json.loads(metadata.get(_NOTE_KEY, "{}"))
        return {**told, "format": metadata[_FORMAT_KEY], "broken": self._store.is_broken(self.name)}

    def count(self) -> int:
        """Return the number of rows."""
        with self._collection() as collection:
            return int(collection.count())

    def ids(self, where: Filter | None = None) -> list[str]:
        """Return the ids of the rows that pass a filter."""
        with self._collection() as collection:
            found: list[str] = collection.get(where=_clause(where), include=[])["ids"]
        return found

    def marks(self) -> dict[str, str]:
        """Return the hash of every row's item."""
        ids = self.ids()
        marks: dict[str, str] = {}
        for start in range(0, len(ids), self.batch_size):
            with self._collection() as collection:
                found = dict(collection.get(ids=ids[start : start + self.batch_size], include=["metadatas"]))
            marks |= {row.id: (row.metadata or {}).get(HASH_KEY, "") for row in _rows(found)}
        return marks

    def _read(self, ids: Sequence[str], with_vectors: bool) -> list[Stored]:
        include = ["documents", "metadatas", *(["embeddings"] if with_vectors else [])]
        with self._collection() as collection:
            return _rows(dict(collection.get(ids=list(ids), include=include)))

    def _nearest(self, wanted: Wanted) -> list[list[Hit]]:
        where = _clause(wanted.where)

        def attempt() -> list[list[Hit]]:
            found: list[list[Hit]] = []
            with self._collection() as collection:
                is_cosine = _space_of(collection) == "cosine"
                include = ["distances", *(["documents", "metadatas"] if wanted.with_rows else [])]
                include += [] if is_cosine else ["embeddings"]
                for start in range(0, len(wanted.vectors), _QUERY_BATCH):
                    batch = list(wanted.vectors[start : start + _QUERY_BATCH])
                    answer = dict(
                        collection.query(
                            query_embeddings=batch, n_results=wanted.size, where=where, include=include
                        )
                    )
                    for number, vector in enumerate(batch):
                        rows = _rows({key: answer[key][number] for key in ("ids", *include)})
                        # Counted again because rows may have been deleted meanwhile.
                        if where is None and len(rows) < min(wanted.size, collection.count()):
                            raise ShortIndexError(
                                f"catalog {self.name!r} has {collection.count()} items, but its vector index "
                                f"found {len(rows)} of the {wanted.size} asked for",
                                hint="the store is damaged: delete it and index the items again",
                            )
                        scores = np.clip(1.0 - np.asarray(answer["distances"][number]), -1.0, 1.0).tolist()
                        hits = list(map(Hit, rows, scores))
                        found.append(hits if is_cosine else rescored(vector, rows))
            return found

        try:
            return attempt()
        except ShortIndexError:
            # Programs that do not use this package write without notice: it is read anew before it counts as
            # damaged.
            if not self._store.refresh():
                raise
            return attempt()

    @contextmanager
    def writing(self) -> Iterator[ChromaTable]:
        """Let one writer at a time in."""
        with self._errors(), self._store.writing(self.name):
            yield self

    def write(self, rows: Sequence[Row], vectors: Sequence[Sequence[float]]) -> None:
        """Add rows, or replace those of the same ids, in one transaction."""
        self._store.begin()
        with self._collection() as collection:
            old = collection.get(ids=[row.id for row in rows], include=["metadatas"])
            stale = dict(zip(old["ids"], old["metadatas"] or (), strict=True))
            # An upsert merges metadata; None deletes the keys that only the old row has, so that no kill can
            # lose the item between a delete and an add.
            metadatas = [{**dict.fromkeys(stale.get(row.id) or ()), **row.metadata} for row in rows]
            collection.upsert(
                ids=[row.id for row in rows],
                embeddings=[list(vector) for vector in vectors],
                documents=[row.document for row in rows],
                metadatas=metadatas,
            )
            self._settle(collection, [list(vectors[0])])

    def _delete(self, ids: Sequence[str]) -> None:
        self._store.begin()
        with self._collection() as collection:
            collection.delete(ids=list(ids))
            rest = _rows(dict(collection.get(limit=1, include=["embeddings"])))
            self._settle(collection, [row.vector.tolist() for row in rest if row.vector is not None])

    def _settle(self, collection: Collection, vectors: list[list[float]]) -> None:
        """Wait until what was written is in the vector index (Chroma gets to it before it answers)."""
        if vectors:
            collection.query(query_embeddings=vectors, n_results=1, include=[])
        self._store.checkpoint()

    def finish(self) -> None:
        """Record that the collection holds a whole catalog."""
        with self._collection() as collection:
            metadata = dict(collection.metadata or {})
            note = json.loads(metadata[_NOTE_KEY])
            if not note["complete"]:
                collection.modify(metadata={**metadata, _NOTE_KEY: json.dumps({**note, "complete": True})})

    def drop(self) -> None:
        """Delete the collection."""
        super().drop()
        # Chroma keeps the index of a deleted collection in memory (some MB each) for as long as it is open.
        self._store.refresh()

    def _drop(self) -> None:
        with self._errors(), self._store.reading() as client:
            delete_collection(client, self.name, is_broken=self._store.is_broken(self.name))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        folder = self._store.location.persist_dir
        with store_errors(self.label, lambda error: explained(self.label, error, folder)):
            yield

    @contextmanager
    def _collection(self) -> Iterator[Collection]:
        with self._errors(), self._store.reading() as client:
            yield client.get_collection(self.name, embedding_function=None)


def _rows(found: Mapping[str, Any]) -> list[Stored]:
    """Return the rows in an answer of Chroma's to ``get``, or to one query."""
    nothing = [None] * len(found["ids"])
    columns = [found.get(name) for name in ("documents", "metadatas", "embeddings")]
    filled = [nothing if column is None else column for column in columns]
    return [
        Stored(row_id, document, metadata, None if vector is None else np.asarray(vector, dtype=np.float64))
        for row_id, document, metadata, vector in zip(found["ids"], *filled, strict=True)
    ]


def _space_of(collection: Collection) -> str:
    """Distance of the collection's index: "cosine", "l2" or "ip"."""
    configuration: dict[str, Any] = dict(collection.configuration)
    index = configuration.get("hnsw") or configuration.get("spann") or {}
    return str(index.get("space") or "l2")


def _clause(where: Filter | None) -> dict[str, Any] | None:
    """Translate a filter into a Chroma ``where`` clause."""
    if where is None:
        return None
    if isinstance(where, Group):
        return {f"${where.joint}": [_clause(part) for part in where.parts]}
    if where.sign in _SIGNS:
        return {where.key: {_SIGNS[where.sign]: where.value}}
    test = "$contains" if where.sign == "==" else "$not_contains"
    return {FACETS_KEY: {test: facet(where.key, where.value)}}
