"""A catalog in Qdrant: a folder or memory (local mode), or a server through a client of yours.

Local mode searches all vectors (exact, no index), holds them in memory, and lets one process at a time open a
folder. It keeps its rows as pickles: open only folders that you trust.
"""

from __future__ import annotations

import re
import sqlite3
import threading
import uuid
import weakref
from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reges_index.catalog.encoder import EncoderIdentity
from reges_index.catalog.filters import Filter, Group, facet
from reges_index.catalog.place import no_store, store_errors
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
    whole_node,
)
from reges_index.errors import CatalogError, ConfigError, ReGeSError, StorageError, StoreNotFoundError

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

_ID_KEY = "reges_id"
_TEXT_KEY = "text"
_VECTOR = "text-dense"  # the name that LlamaIndex's QdrantVectorStore looks for
# Qdrant takes UUIDs and integers only; an item's id becomes a UUID of this family.
_POINTS = uuid.UUID("6f0b9b0e-5c3c-5e0b-9a56-0c7f6d1f7a11")
_BATCH = 1000
# What Qdrant reads as one key; anything else could be taken as a path into the payload.
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_HIDDEN = "reges_key_"
_BOUNDS = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}

_clients: weakref.WeakValueDictionary[Path, QdrantClient] = weakref.WeakValueDictionary()
_locks: weakref.WeakKeyDictionary[QdrantClient, threading.RLock] = weakref.WeakKeyDictionary()
_write_locks: weakref.WeakKeyDictionary[QdrantClient, threading.RLock] = weakref.WeakKeyDictionary()
_opening = threading.Lock()


class QdrantTable(Table):
    """A Qdrant collection as a `Table`.

    Parameters
    ----------
    client
        A client; of local mode or of a server.
    name
        Of the collection.
    """

    batch_size = _BATCH

    def __init__(self, client: QdrantClient, name: str) -> None:
        from qdrant_client.local.qdrant_local import QdrantLocal

        super().__init__(name)
        self._client = client
        self.home: Hashable = client
        inner = client._client
        is_local = isinstance(inner, QdrantLocal)
        self.place = f"qdrant:{inner.location}" if isinstance(inner, QdrantLocal) else "the Qdrant server"
        with _opening:
            # Local mode is plain Python over arrays that grow: a reader beside a writer sees them half-grown.
            lock = _locks.setdefault(client, threading.RLock())
            self._lock: AbstractContextManager[Any] = lock if is_local else nullcontext()
            # One for each client: tables of one store wait for each other, however often it was opened.
            self._write_lock = _write_locks.setdefault(client, threading.RLock())

    @classmethod
    def at(cls, folder: Path, name: str, *, create: bool) -> QdrantTable:
        """Open a folder in local mode; one client for each folder of the process.

        Errors are those of `reges_index.catalog.stores.table_at`.
        """
        try:
            from qdrant_client import QdrantClient
        except ImportError as error:
            raise ConfigError(
                "a Qdrant store needs qdrant-client", hint="pip install 'reges-index[stores]'"
            ) from error
        where = f"qdrant:{folder}"
        is_there = (folder / "meta.json").is_file()
        if not is_there and not create:
            raise no_store(where)
        with _opening:
            client = _clients.get(folder) if is_there else None
            if client is None:
                with store_errors(where, lambda error: _explained(where, error)):
                    client = QdrantClient(path=str(folder), force_disable_check_same_thread=True)
                _clients[folder] = client
                weakref.finalize(client, client._client.close).atexit = True
        return cls(client, name)

    def sibling(self, name: str) -> QdrantTable:
        """Return another collection of the same store."""
        return QdrantTable(self._client, name)

    def names(self) -> list[str]:
        """Names of all collections, sorted."""
        with self._calling() as client:
            return sorted(found.name for found in client.get_collections().collections)

    def _create(self, identity: EncoderIdentity) -> None:
        from qdrant_client import models

        size = models.VectorParams(size=identity.dimension, distance=models.Distance.COSINE)
        note = {"format": FORMAT, "complete": False, "encoder": asdict(identity)}
        with self._calling() as client:
            client.create_collection(self.name, vectors_config={_VECTOR: size}, metadata={"reges": note})

    def _note(self) -> dict[str, Any] | None:
        with self._calling() as client:
            note: dict[str, Any] | None
            note = (client.get_collection(self.name).config.metadata or {}).get("reges")
        return note

    def _drop(self) -> None:
        with self._calling() as client:
            client.delete_collection(self.name)

    def count(self) -> int:
        """Return the number of rows."""
        with self._calling() as client:
            return int(client.count(self.name, exact=True).count)

    def ids(self, where: Filter | None = None) -> list[str]:
        """Return the ids of the rows that pass a filter."""
        return [_row_id(point) for point in self._scroll([_ID_KEY], where)]

    def marks(self) -> dict[str, str]:
        """Return the hash of every row's item."""
        points = self._scroll([_ID_KEY, HASH_KEY])
        return {_row_id(point): (point.payload or {}).get(HASH_KEY, "") for point in points}

    def _scroll(self, keys: list[str], where: Filter | None = None) -> Iterator[Any]:
        limits = None if where is None else _filter(where)
        offset = None
        while True:
            with self._calling() as client:
                points, offset = client.scroll(
                    self.name, scroll_filter=limits, limit=10 * _BATCH, offset=offset, with_payload=keys
                )
            yield from points
            if offset is None:
                return

    def _read(self, ids: Sequence[str], with_vectors: bool) -> Iterator[Stored]:
        points = self._points(ids)
        with self._calling() as client:
            found = client.retrieve(self.name, points, with_payload=True, with_vectors=with_vectors)
        return map(_stored, found)

    def _points(self, ids: Sequence[str]) -> list[Any]:
        """Return the points' own ids."""
        if self._note() is not None:
            return [_point_id(row_id) for row_id in ids]
        return [int(row_id) if row_id.isdigit() else row_id for row_id in ids]

    def _nearest(self, wanted: Wanted) -> list[list[Hit]]:
        using, is_cosine = self._vector()
        limits = None if wanted.where is None else _filter(wanted.where)
        found = []
        for vector in wanted.vectors:
            with self._calling() as client:
                points = client.query_points(
                    self.name,
                    query=list(vector),
                    using=using,
                    query_filter=limits,
                    limit=wanted.size,
                    with_payload=True if wanted.with_rows else [_ID_KEY],
                    with_vectors=not is_cosine,
                ).points
            hits = [Hit(_stored(point), min(1.0, max(-1.0, point.score))) for point in points]
            found.append(hits if is_cosine else rescored(vector, [hit.row for hit in hits]))
        return found

    @contextmanager
    def writing(self) -> Iterator[QdrantTable]:
        """Let one writer at a time in; local mode keeps other processes out of the folder altogether."""
        with self._write_lock:
            yield self

    def write(self, rows: Sequence[Row], vectors: Sequence[Sequence[float]]) -> None:
        """Write whole points."""
        from qdrant_client import models

        points = [
            models.PointStruct(id=_point_id(row.id), payload=_payload(row), vector={_VECTOR: list(vector)})
            for row, vector in zip(rows, vectors, strict=True)
        ]
        with self._calling() as client:
            client.upsert(self.name, points, wait=True)

    def _delete(self, ids: Sequence[str]) -> None:
        from qdrant_client import models

        with self._calling() as client:
            client.delete(self.name, models.PointIdsList(points=list(map(_point_id, ids))), wait=True)

    def finish(self) -> None:
        """Record that the table holds a whole catalog."""
        note = self._note()
        if note is not None and not note["complete"]:
            with self._calling() as client:
                client.update_collection(self.name, metadata={"reges": {**note, "complete": True}})

    def _vector(self) -> tuple[str | None, bool]:
        """Return the name of the one vector that a point has, and whether its distance is cosine."""
        from qdrant_client import models

        with self._calling() as client:
            params: Any = client.get_collection(self.name).config.params.vectors
        name = None
        if isinstance(params, dict):
            if not params:
                raise CatalogError(
                    f"{self.label} has no dense vectors", hint="a catalog needs one vector an item"
                )
            name = _VECTOR if _VECTOR in params else next(iter(params))
            params = params[name]
        return name, params.distance == models.Distance.COSINE

    @contextmanager
    def _calling(self) -> Iterator[QdrantClient]:
        with store_errors(self.label, lambda error: _explained(self.label, error)), self._lock:
            yield self._client


def _explained(where: str, error: Exception) -> ReGeSError | None:
    """Return what an error of qdrant-client means: a plain RuntimeError or ValueError in local mode."""
    from grpc import RpcError
    from qdrant_client.http.exceptions import ApiException

    text = str(error)
    if "already accessed" in text:
        return CatalogError(
            f"{where}: another process has the folder open, and Qdrant's local mode allows one",
            hint="end the other process, or run a Qdrant server and pass a client of it",
        )
    if isinstance(error, sqlite3.Error):
        if "full" in text or "readonly" in text:
            return StorageError(f"{where}: {text}", hint="free some space, then sync again")
        hint = "delete the folder and index the items again"
        return CatalogError(f"{where}: the store cannot be read ({text})", hint=hint)
    if isinstance(error, ValueError) and "not found" in text:
        return StoreNotFoundError(f"{where}: {text}", hint="it was deleted; index the items again")
    if isinstance(error, (ApiException, RpcError)):
        return CatalogError(
            f"{where}: the Qdrant server says: {text}", hint="is it running, and is the key right?"
        )
    if isinstance(error, (RuntimeError, ValueError)):
        return CatalogError(f"{where}: Qdrant says: {text}", hint="see Qdrant's message")
    return None


def _point_id(item_id: str) -> str:
    return str(uuid.uuid5(_POINTS, item_id))


def _row_id(point: Any) -> str:
    return str((point.payload or {}).get(_ID_KEY, point.id))


def _payload(row: Row) -> dict[str, Any]:
    values = {_payload_key(key): value for key, value in row.metadata.items()}
    return {**values, **whole_node(row), _ID_KEY: row.id}


def _payload_key(key: str) -> str:
    """Return the name of a metadata key in the payload: itself, or its UTF-8 as hex where it has signs."""
    return key if _PLAIN.fullmatch(key) else _HIDDEN + key.encode(errors="surrogatepass").hex()


def _stored(point: Any) -> Stored:
    payload = dict(point.payload or {})
    vector = point.vector
    if isinstance(vector, dict):
        vector = vector.get(_VECTOR, next(iter(vector.values()), None))
    array = None if vector is None else np.asarray(vector, dtype=np.float64)
    row_id = str(payload.pop(_ID_KEY, point.id))
    # Points of other programs may have their text beside the node; a node's own text is inside it.
    document = None if "_node_content" in payload else payload.pop(_TEXT_KEY, None)
    return Stored(row_id, document, payload, array)


def _filter(where: Filter) -> models.Filter:
    """Translate a filter."""
    from qdrant_client import models

    if isinstance(where, Group):
        parts: list[Any] = [_filter(part) for part in where.parts]
        return models.Filter(must=parts) if where.joint == "and" else models.Filter(should=parts)
    if where.sign in _BOUNDS:
        bounds = models.Range.model_validate({_BOUNDS[where.sign]: where.value})
        return models.Filter(must=[models.FieldCondition(key=_payload_key(where.key), range=bounds)])
    wanted = models.MatchValue(value=facet(where.key, where.value))
    equal: list[Any] = [models.FieldCondition(key=FACETS_KEY, match=wanted)]
    return models.Filter(must=equal) if where.sign == "==" else models.Filter(must_not=equal)
