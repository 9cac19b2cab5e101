"""A catalog in Chroma: a folder, memory, or a server."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
from chromadb import Collection
from chromadb.api import ClientAPI

from reges_index.catalog.encoder import EncoderIdentity
from reges_index.catalog.filters import Filter, Group
from reges_index.catalog.place import StoreLocation
from reges_index.catalog.stores.base import (
    HASH_KEY,
    Hits,
    Record,
    Row,
    Stored,
    content_mark,
    cosines,
    search_size,
)
from reges_index.catalog.stores.chroma_store import StoreHandle, Write, delete_collection
from reges_index.catalog.stores.guards import store_errors
from reges_index.errors import CatalogError, StoreNotFoundError

__all__ = ["ChromaTable"]

_FORMAT = 2
_FORMAT_KEY = "reges_format"
_STATE_KEY = "reges_state"
_PREFIX = "reges_encoder_"
_BUILDING, _COMPLETE = "building", "complete"

# Vectors that go to Chroma in one call; bounds what comes back at once.
_QUERY_BATCH = 64
_SIGNS = {"==": "$eq", "!=": "$ne", ">": "$gt", "<": "$lt", ">=": "$gte", "<=": "$lte"}

# 20,000 random vectors: recall@10 was 0.59 with Chroma's defaults and 0.999 with these. Only ef_search can be
# changed once a collection is made.
_HNSW = {"space": "cosine", "ef_search": 500, "ef_construction": 400, "max_neighbors": 64}


def _create_collection(client: ClientAPI, name: str, identity: EncoderIdentity) -> Collection:
    """Make an empty collection that knows its encoder and that its first sync is not finished."""
    metadata = {_FORMAT_KEY: _FORMAT, _STATE_KEY: _BUILDING}
    metadata.update({f"{_PREFIX}{key}": value for key, value in asdict(identity).items()})
    return client.create_collection(
        name,
        metadata=metadata,
        configuration={"hnsw": _HNSW},
        embedding_function=None,
    )


def _find_collection(client: ClientAPI, name: str, where: str) -> Collection:
    """Return the collection of that name.

    Raises
    ------
    StoreNotFoundError
        If there is none; the message lists what there is.
    """
    names = sorted(collection.name for collection in client.list_collections())
    if name not in names:
        raise StoreNotFoundError(
            f"{where}: there is no catalog {name!r}",
            hint=f"catalogs there: {', '.join(names)}"
            if names
            else "the store is empty; index the items first",
        )
    return client.get_collection(name, embedding_function=None)


def _recorded_identity(collection: Collection, where: str) -> EncoderIdentity | None:
    """Return the encoder that the collection records; None if it was not made by this package.

    Raises
    ------
    CatalogError
        If it was made by a version with another format.
    """
    metadata: dict[str, Any] = dict(collection.metadata or {})
    if _FORMAT_KEY not in metadata:
        return None
    if metadata[_FORMAT_KEY] != _FORMAT:
        raise CatalogError(
            f"{where} has catalog format {metadata[_FORMAT_KEY]}, this version reads {_FORMAT}",
            hint="index the items again, or update reges-index",
        )
    names = EncoderIdentity.__dataclass_fields__
    return EncoderIdentity(**{name: metadata[f"{_PREFIX}{name}"] for name in names})


def _is_complete(collection: Collection) -> bool:
    """Whether a first sync has reached its end."""
    return (collection.metadata or {}).get(_STATE_KEY) == _COMPLETE


def _mark_complete(collection: Collection) -> None:
    """Record that the collection holds a whole catalog."""
    if not _is_complete(collection):
        collection.modify(metadata={**(collection.metadata or {}), _STATE_KEY: _COMPLETE})


def _space_of(collection: Collection) -> str:
    """Distance of the collection's index: "cosine", "l2" or "ip"."""
    configuration: dict[str, Any] = dict(collection.configuration)
    index = configuration.get("hnsw") or configuration.get("spann") or {}
    return str(index.get("space") or "l2")


def _stored_dimension(collection: Collection) -> int | None:
    """Length of the vectors in the collection; None if it is empty."""
    vectors = collection.get(limit=1, include=["embeddings"])["embeddings"]
    return None if vectors is None or len(vectors) == 0 else len(vectors[0])


class ShortIndexError(CatalogError):
    """The vector index holds fewer rows than the collection."""


def _search(
    collection: Collection,
    vectors: Sequence[Sequence[float]],
    top_k: int,
    limits: dict[str, Any],
    with_rows: bool,
    with_vectors: bool,
) -> list[Hits]:
    count = collection.count()
    wanted = search_size(top_k, count if limits.get("ids") is None else len(limits["ids"]))
    if not vectors or not count or not wanted:
        return [Hits([], [], []) for _ in vectors]
    foreign_space = _space_of(collection) != "cosine"
    include = ["distances"]
    include += ["documents", "metadatas"] if with_rows else []
    include += ["embeddings"] if with_vectors or foreign_space else []
    is_free = not any(limits.values())
    hits: list[Hits] = []
    for start in range(0, len(vectors), _QUERY_BATCH):
        batch = list(vectors[start : start + _QUERY_BATCH])
        found: dict[str, Any] = dict(
            collection.query(query_embeddings=batch, n_results=wanted, include=include, **limits)
        )
        for position, query in enumerate(batch):
            one = _hits(found, position, query if foreign_space else None)
            # Counted again because rows may have been deleted meanwhile.
            if is_free and len(one.ids) < min(wanted, collection.count()):
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
        """Open the store of a table; errors are those of `chroma_store.open_client`."""
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
                _create_collection(write.client, self.name, identity)

    def record(self) -> Record:
        """Return what the collection says of itself."""
        with store_errors(self._where), self._store.reading() as client:
            collection = _find_collection(client, self.name, self.place)
            identity = _recorded_identity(collection, self._where)
            if identity is None:
                dimension = _stored_dimension(collection)
                return Record(None, dimension, complete=True, broken=False)
            complete = _is_complete(collection)
        return Record(identity, identity.dimension, complete, self._store.is_broken(self.name))

    def drop(self) -> None:
        """Delete the collection."""
        with self._writing() as write:
            delete_collection(write.client, self.name, broken=write.broken)
        # Chroma keeps the index of a deleted collection in memory (some MB each) for as long as it is open.
        self._store.refresh()

    def count(self) -> int:
        """Return the number of rows."""
        with self.reading() as collection:
            return int(collection.count())

    def ids(self, where: Filter | None = None) -> list[str]:
        """Return the ids of the rows that pass a filter."""
        clause = None if where is None else _clause(where)
        with self.reading() as collection:
            found: list[str] = collection.get(where=clause, include=[])["ids"]
        return found

    def marks(self) -> dict[str, str]:
        """Return a hash of every row's content."""
        marks: dict[str, str] = {}
        unknown: list[str] = []
        with self.reading() as collection:
            ids = collection.get(include=[])["ids"]
            for start in range(0, len(ids), self.batch_size):
                rows = collection.get(ids=ids[start : start + self.batch_size], include=["metadatas"])
                for row_id, metadata in zip(rows["ids"], rows["metadatas"] or [], strict=True):
                    if metadata and metadata.get(HASH_KEY):
                        marks[row_id] = content_mark(metadata, None)
                    else:
                        unknown.append(row_id)
        for row in self.rows(unknown):
            marks[row.id] = content_mark(None, row.document)
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
        among: Sequence[str] | None = None,
        with_rows: bool = True,
        with_vectors: bool = False,
    ) -> list[Hits]:
        """Find the nearest rows of each vector; where the space is not cosine, they are scored anew.

        Programs that do not use this package write without notice, so an index that lacks rows is read anew
        once before it counts as damaged.
        """
        limits: dict[str, Any] = {"where": None if where is None else _clause(where)}
        if among is not None:
            limits["ids"] = list(among)

        def attempt() -> list[Hits]:
            with self.reading() as collection:
                return _search(collection, vectors, top_k, limits, with_rows, with_vectors)

        try:
            return attempt()
        except ShortIndexError:
            if not self._store.refresh():
                raise
            return attempt()

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
        return _recorded_identity(self._collection(), self._where)

    def recreate(self, identity: EncoderIdentity) -> None:
        delete_collection(self._write.client, self._name, broken=self.broken)
        _create_collection(self._write.client, self._name, identity)

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
        _mark_complete(self._collection())

    def _collection(self) -> Collection:
        return _find_collection(self._write.client, self._name, self._where)

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


def _clause(where: Filter) -> dict[str, Any]:
    """Translate a filter into a Chroma ``where`` clause."""
    if isinstance(where, Group):
        return {f"${where.joint}": [_clause(part) for part in where.parts]}
    plain = {where.key: {_SIGNS[where.sign]: where.value}}
    if where.sign not in ("==", "!=") or not isinstance(where.value, str):  # lists hold texts only
        return plain
    in_list = {where.key: {"$contains" if where.sign == "==" else "$not_contains": where.value}}
    return {"$or" if where.sign == "==" else "$and": [plain, in_list]}
