"""A catalog in Chroma: a folder, memory, or a server."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from chromadb import Collection

from reges_index.catalog import collection as collections
from reges_index.catalog.encoder import EncoderIdentity
from reges_index.catalog.filters import Filter, chroma_where
from reges_index.catalog.handle import StoreHandle, Write
from reges_index.catalog.rows import HASH_KEY, Row, content_mark, iter_rows
from reges_index.catalog.search import search_store
from reges_index.catalog.store import StoreLocation, store_errors
from reges_index.catalog.stores.base import Hits, Record, Stored

__all__ = ["ChromaTable"]


class ChromaTable:
    """A Chroma collection as a `Table`.

    Parameters
    ----------
    store
        The open store.
    name
        Of the collection.
    """

    def __init__(self, store: StoreHandle, name: str) -> None:
        self.name = name
        self._store = store
        self.place = str(store.location)
        # Folders have one handle in a process, memories one each, and a server as many as there are catalogs.
        self.home: Hashable = store if store.location.url is None else store.location
        self.batch_size = store.batch_size

    @classmethod
    def at(cls, location: StoreLocation, name: str, *, create: bool) -> ChromaTable:
        """Open the store of a table; see `reges_index.catalog.store.open_client` for what is raised."""
        with store_errors(f"catalog {name!r} in {location}", location.persist_dir):
            return cls(StoreHandle.of(location, create=create), name)

    @property
    def _where(self) -> str:
        return f"catalog {self.name!r} in {self.place}"

    def sibling(self, name: str) -> ChromaTable:
        """Return another collection of the same store."""
        return ChromaTable(self._store, name)

    def names(self) -> list[str]:
        """Names of all collections, sorted."""
        with store_errors(self.place), self._store.reading() as client:
            return sorted(found.name for found in client.list_collections())

    def create(self, identity: EncoderIdentity) -> None:
        """Make the collection unless it is there."""
        if self.name in self.names():
            return
        with self._writing() as write:
            if self.name not in {found.name for found in write.client.list_collections()}:
                collections.create_collection(write.client, self.name, identity)

    def record(self) -> Record:
        """Return what the collection says of itself."""
        with store_errors(self._where), self._store.reading() as client:
            collection = collections.find_collection(client, self.name, self.place)
            identity = collections.recorded_identity(collection, self._where)
            if identity is None:
                dimension = collections.stored_dimension(collection)
                return Record(None, dimension, complete=True, broken=False)
            complete = collections.is_complete(collection)
        return Record(identity, identity.dimension, complete, self._store.is_broken(self.name))

    def drop(self) -> None:
        """Delete the collection."""
        with self._writing() as write:
            collections.delete_collection(write.client, self.name, broken=write.broken)
        # Chroma keeps the index of a deleted collection in memory (some MB each) for as long as it is open.
        self._store.refresh()

    def count(self) -> int:
        """Return the number of rows."""
        with self.reading() as collection:
            return int(collection.count())

    def ids(self, where: Filter | None = None) -> list[str]:
        """Return the ids of the rows that pass a filter."""
        clause = None if where is None else chroma_where(where)
        with self.reading() as collection:
            found: list[str] = collection.get(where=clause, include=[])["ids"]
        return found

    def marks(self) -> dict[str, str]:
        """Return a hash of every row's content."""
        marks: dict[str, str] = {}
        unknown: list[str] = []
        with self.reading() as collection:
            ids = collection.get(include=[])["ids"]
            for rows in iter_rows(collection, ids, ["metadatas"], self.batch_size):
                for row_id, metadata in zip(rows["ids"], rows["metadatas"], strict=True):
                    if metadata and metadata.get(HASH_KEY):
                        marks[row_id] = content_mark(metadata, None)
                    else:
                        unknown.append(row_id)
            for rows in iter_rows(collection, unknown, ["documents"], self.batch_size):
                for row_id, document in zip(rows["ids"], rows["documents"], strict=True):
                    marks[row_id] = content_mark(None, document)
        return marks

    def rows(self, ids: Sequence[str], *, with_vectors: bool = False) -> Iterator[Stored]:
        """Iterate over rows, each batch as it is when it is read."""
        include = ["documents", "metadatas", *(["embeddings"] if with_vectors else [])]
        for start in range(0, len(ids), self.batch_size):
            with self.reading() as collection:
                found = dict(collection.get(ids=list(ids[start : start + self.batch_size]), include=include))
            vectors: Sequence[Any] = found["embeddings"] if with_vectors else [None] * len(found["ids"])
            rows = zip(found["ids"], found["documents"], found["metadatas"], vectors, strict=True)
            for row_id, document, metadata, vector in rows:
                array = None if vector is None else np.asarray(vector, dtype=np.float64)
                yield Stored(row_id, document, metadata, array)

    def search(
        self,
        vectors: Sequence[Sequence[float]],
        top_k: int,
        *,
        where: Filter | None = None,
        with_rows: bool = True,
        with_vectors: bool = False,
    ) -> list[Hits]:
        """Find the nearest rows of each vector."""
        return search_store(
            self._store,
            self.name,
            vectors,
            top_k,
            where=None if where is None else chroma_where(where),
            with_rows=with_rows,
            with_vectors=with_vectors,
        )

    @contextmanager
    def writing(self) -> Iterator[_ChromaWriter]:
        """Let one writer at a time in."""
        with self._writing() as write:
            yield _ChromaWriter(write, self.name, self._where)

    @contextmanager
    def reading(self) -> Iterator[Collection]:
        """Lend the collection for reading."""
        with store_errors(self._where), self._store.reading() as client:
            yield client.get_collection(self.name, embedding_function=None)

    @contextmanager
    def _writing(self) -> Iterator[Write]:
        folder = self._store.location.persist_dir
        with store_errors(self._where, folder), self._store.writing(self.name) as write:
            yield write


class _ChromaWriter:
    def __init__(self, write: Write, name: str, where: str) -> None:
        self.broken = write.broken
        self._write = write
        self._name = name
        self._where = where
        self._begun = False

    def identity(self) -> EncoderIdentity | None:
        return collections.recorded_identity(self._collection(), self._where)

    def recreate(self, identity: EncoderIdentity) -> None:
        collections.delete_collection(self._write.client, self._name, broken=self.broken)
        collections.create_collection(self._write.client, self._name, identity)

    def write(self, rows: Sequence[Row], vectors: Sequence[Sequence[float]]) -> None:
        collection = self._begin()
        ids = [row.id for row in rows]
        old = collection.get(ids=ids, include=["metadatas"])
        stale = dict(zip(old["ids"], old["metadatas"], strict=True))
        # An upsert merges metadata; None deletes the keys that only the old row has, in the same transaction,
        # so no kill can lose the item between a delete and an add.
        metadatas = [{**dict.fromkeys(stale.get(row.id) or ()), **row.metadata} for row in rows]
        collection.upsert(
            ids=ids,
            embeddings=[list(vector) for vector in vectors],
            documents=[row.document for row in rows],
            metadatas=metadatas,
        )
        _settle(collection, list(vectors[0]))
        self._write.checkpoint()

    def delete(self, ids: Sequence[str]) -> None:
        collection = self._begin()
        collection.delete(ids=list(ids))
        _settle(collection)
        self._write.checkpoint()

    def finish(self) -> None:
        collections.mark_complete(self._collection())

    def _collection(self) -> Collection:
        return collections.find_collection(self._write.client, self._name, self._where)

    def _begin(self) -> Collection:
        if not self._begun:
            self._begun = True
            self._write.checkpoint()  # from here on a kill may leave a half-saved index, and must be told
        return self._collection()


def _settle(collection: Collection, vector: list[float] | None = None) -> None:
    """Wait until what was written is in the vector index (Chroma gets to it later, but before it answers)."""
    if vector is None:
        found = collection.get(limit=1, include=["embeddings"])["embeddings"]
        if found is None or len(found) == 0:
            return
        vector = list(found[0])
    collection.query(query_embeddings=[vector], n_results=1, include=[])
