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
from reges_index.catalog.filters import Check, Filter, Group
from reges_index.catalog.stores.base import (
    HASH_KEY,
    Hits,
    Record,
    Row,
    Stored,
    content_mark,
    cosines,
    search_size,
    whole_node,
)
from reges_index.catalog.stores.guards import store_errors
from reges_index.errors import (
    CatalogError,
    ConfigError,
    ReGeSError,
    StorageError,
    StoreNotFoundError,
)

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

__all__ = ["QdrantTable"]

_ID_KEY = "reges_id"
_TEXT_KEY = "text"
_VECTOR = "text-dense"  # the name that LlamaIndex's QdrantVectorStore looks for
_FORMAT = 2
# Qdrant takes UUIDs and integers only; an item's id becomes a UUID of this family.
_POINTS = uuid.UUID("6f0b9b0e-5c3c-5e0b-9a56-0c7f6d1f7a11")
_BATCH = 1000
# What Qdrant reads as one key; anything else could be taken as a path into the payload.
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_HIDDEN = "reges_key_"
# From here on floats skip integers.
_EXACT = 2**53
_BOUNDS = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}

_clients: weakref.WeakValueDictionary[Path, QdrantClient] = weakref.WeakValueDictionary()
_locks: weakref.WeakKeyDictionary[QdrantClient, threading.RLock] = weakref.WeakKeyDictionary()
_write_locks: weakref.WeakKeyDictionary[QdrantClient, threading.RLock] = weakref.WeakKeyDictionary()
_opening = threading.Lock()


class QdrantTable:
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

        self.name = name
        self._client = client
        self.home: Hashable = client
        inner = client._client
        self.place = f"qdrant:{inner.location}" if isinstance(inner, QdrantLocal) else "the Qdrant server"
        with _opening:
            # Local mode is plain Python over arrays that grow: a reader beside a writer sees them half-grown.
            self._lock: AbstractContextManager[Any] = (
                _locks.setdefault(client, threading.RLock())
                if isinstance(inner, QdrantLocal)
                else nullcontext()
            )
            # One for each client: tables of one store wait for each other, however often it was opened.
            self._write_lock = _write_locks.setdefault(client, threading.RLock())

    @classmethod
    def at(cls, folder: Path, name: str, *, create: bool) -> QdrantTable:
        """Open a folder in local mode; one client for each folder of the process.

        Raises
        ------
        StoreNotFoundError
            If there is no store in the folder and `create` is false.
        CatalogError
            If another process has the folder open.
        ConfigError
            If qdrant-client is not installed.
        """
        try:
            from qdrant_client import QdrantClient
        except ImportError as error:
            raise ConfigError(
                "a Qdrant store needs qdrant-client", hint="pip install 'reges-index[stores]'"
            ) from error
        if not (folder / "meta.json").is_file() and not create:
            raise StoreNotFoundError(
                f"qdrant:{folder}: there is no store", hint="check the path, or index the items there first"
            )
        with _opening:
            client = _clients.get(folder)
            if client is None or not (folder / "meta.json").is_file():
                with _errors(f"qdrant:{folder}"):
                    client = QdrantClient(path=str(folder), force_disable_check_same_thread=True)
                _clients[folder] = client
                weakref.finalize(client, client._client.close).atexit = True
        return cls(client, name)

    @property
    def _where(self) -> str:
        return f"catalog {self.name!r} in {self.place}"

    def sibling(self, name: str) -> QdrantTable:
        """Return another collection of the same store."""
        return QdrantTable(self._client, name)

    def names(self) -> list[str]:
        """Names of all collections, sorted."""
        with _errors(self.place), self._lock:
            return sorted(found.name for found in self._client.get_collections().collections)

    def create(self, identity: EncoderIdentity) -> None:
        """Make the collection unless it is there."""
        with self._write_lock:
            if self.name not in self.names():
                self._create(identity)

    def _create(self, identity: EncoderIdentity) -> None:
        from qdrant_client import models

        size = models.VectorParams(size=identity.dimension, distance=models.Distance.COSINE)
        metadata = {"reges": {"format": _FORMAT, "complete": False, "encoder": asdict(identity)}}
        with _errors(self._where), self._lock:
            self._client.create_collection(self.name, vectors_config={_VECTOR: size}, metadata=metadata)

    def record(self) -> Record:
        """Return what the collection says of itself."""
        note = self._note()
        if note is None:
            _, size, _ = self._vector()
            return Record(None, size, complete=True, broken=False)
        if note.get("format") != _FORMAT:
            raise CatalogError(
                f"{self._where} has catalog format {note.get('format')}, this version reads {_FORMAT}",
                hint="index the items again, or update reges-index",
            )
        identity = EncoderIdentity(**note["encoder"])
        return Record(identity, identity.dimension, bool(note["complete"]), broken=False)

    def drop(self) -> None:
        """Delete the collection."""
        with self._write_lock, _errors(self._where), self._lock:
            self._client.delete_collection(self.name)

    def count(self) -> int:
        """Return the number of rows."""
        with _errors(self._where), self._lock:
            return int(self._client.count(self.name, exact=True).count)

    def ids(self, where: Filter | None = None) -> list[str]:
        """Return the ids of the rows that pass a filter."""
        return [_row_id(point) for point in self._scroll([_ID_KEY], where)]

    def marks(self) -> dict[str, str]:
        """Return a hash of every row's content."""
        keys = [_ID_KEY, HASH_KEY]
        marks = {}
        unknown = []
        for point in self._scroll(keys):
            if (point.payload or {}).get(HASH_KEY):
                marks[_row_id(point)] = content_mark(point.payload, None)
            else:
                unknown.append(_row_id(point))
        for row in self.rows(unknown):
            marks[row.id] = content_mark(row.metadata, row.document)
        return marks

    def rows(self, ids: Sequence[str], *, with_vectors: bool = False) -> Iterator[Stored]:
        """Iterate over rows, each batch as it is when it is read."""
        point_id = _given_id if self._note() is None else _point_id
        for start in range(0, len(ids), _BATCH):
            part = [point_id(row_id) for row_id in ids[start : start + _BATCH]]
            with _errors(self._where), self._lock:
                points = self._client.retrieve(self.name, part, with_payload=True, with_vectors=with_vectors)
            yield from map(_stored, points)

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
        """Find the nearest rows of each vector."""
        wanted = search_size(top_k, self.count())
        if not vectors or not wanted:
            return [Hits([], [], []) for _ in vectors]
        using, _, is_cosine = self._vector()
        limits = None if where is None else _filter(where)
        if among is not None:
            limits = self._among(among, limits)
        found = []
        for vector in vectors:
            with _errors(self._where), self._lock:
                points = self._client.query_points(
                    self.name,
                    query=list(vector),
                    using=using,
                    query_filter=limits,
                    limit=wanted,
                    with_payload=True if with_rows else [_ID_KEY],
                    with_vectors=with_vectors or not is_cosine,
                ).points
            rows = [_stored(point) for point in points]
            scores = [min(1.0, max(-1.0, point.score)) for point in points]
            if not is_cosine and rows:
                exact = cosines(vector, np.stack([row.vector for row in rows if row.vector is not None]))
                order = np.argsort(-exact, kind="stable")
                rows, scores = [rows[n] for n in order], [float(exact[n]) for n in order]
            found.append(Hits([row.id for row in rows], scores, rows if with_rows else []))
        return found

    def _among(self, ids: Sequence[str], limits: models.Filter | None) -> models.Filter:
        from qdrant_client import models

        point_id = _given_id if self._note() is None else _point_id
        chosen: Any = models.HasIdCondition(has_id=[point_id(row_id) for row_id in ids])
        return models.Filter(must=[chosen] if limits is None else [chosen, limits])

    @contextmanager
    def writing(self) -> Iterator[_QdrantWriter]:
        """Let one writer at a time in; local mode keeps other processes out of the folder altogether."""
        with self._write_lock:
            yield _QdrantWriter(self)

    def upsert(self, rows: Sequence[Row], vectors: Sequence[Sequence[float]]) -> None:
        """Write whole points."""
        from qdrant_client import models

        points = [
            models.PointStruct(id=_point_id(row.id), payload=_payload(row), vector={_VECTOR: list(vector)})
            for row, vector in zip(rows, vectors, strict=True)
        ]
        with _errors(self._where), self._lock:
            self._client.upsert(self.name, points, wait=True)

    def delete(self, ids: Sequence[str]) -> None:
        """Delete points by item id."""
        from qdrant_client import models

        selector = models.PointIdsList(points=[_point_id(row_id) for row_id in ids])
        with _errors(self._where), self._lock:
            self._client.delete(self.name, selector, wait=True)

    def mark_complete(self) -> None:
        """Record that the table holds a whole catalog."""
        note = self._note()
        if note is not None and not note["complete"]:
            with _errors(self._where), self._lock:
                self._client.update_collection(self.name, metadata={"reges": {**note, "complete": True}})

    def recreate(self, identity: EncoderIdentity) -> None:
        """Start anew with an empty collection."""
        self.drop()
        self._create(identity)

    def _info(self) -> Any:
        if self.name not in (names := self.names()):
            known = f"catalogs there: {', '.join(names)}" if names else "the store is empty"
            raise StoreNotFoundError(f"{self.place}: there is no catalog {self.name!r}", hint=known)
        with _errors(self._where), self._lock:
            return self._client.get_collection(self.name)

    def _note(self) -> dict[str, Any] | None:
        note: dict[str, Any] | None = (self._info().config.metadata or {}).get("reges")
        return note

    def _vector(self) -> tuple[str | None, int, bool]:
        """Return name, size and whether the distance is cosine, of the one vector that a point has."""
        from qdrant_client import models

        params = self._info().config.params.vectors
        if isinstance(params, dict):
            name = _VECTOR if _VECTOR in params else next(iter(params), "")
            if not name:
                raise CatalogError(
                    f"{self._where} has no dense vectors", hint="a catalog needs one vector an item"
                )
            params = params[name]
        else:
            name = None
        return name, int(params.size), params.distance == models.Distance.COSINE

    def _scroll(self, keys: list[str], where: Filter | None = None) -> Iterator[Any]:
        limits = None if where is None else _filter(where)
        offset = None
        while True:
            with _errors(self._where), self._lock:
                points, offset = self._client.scroll(
                    self.name, scroll_filter=limits, limit=10 * _BATCH, offset=offset, with_payload=keys
                )
            yield from points
            if offset is None:
                return


class _QdrantWriter:
    broken = False

    def __init__(self, table: QdrantTable) -> None:
        self._table = table
        self.recreate = table.recreate
        self.write = table.upsert
        self.delete = table.delete
        self.finish = table.mark_complete

    def identity(self) -> EncoderIdentity | None:
        return self._table.record().identity


def _point_id(item_id: str) -> str:
    return str(uuid.uuid5(_POINTS, item_id))


def _given_id(row_id: str) -> str | int:
    return int(row_id) if row_id.isdigit() else row_id


def _row_id(point: Any) -> str:
    return str((point.payload or {}).get(_ID_KEY, point.id))


def _payload(row: Row) -> dict[str, Any]:
    values = {_payload_key(key): value for key, value in row.metadata.items()}
    return {**values, **whole_node(row), _ID_KEY: row.id}


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


@contextmanager
def _errors(where: str) -> Iterator[None]:
    """Translate errors of qdrant-client, which are plain RuntimeError and ValueError in local mode."""
    from grpc import RpcError
    from qdrant_client.http.exceptions import ApiException

    try:
        with store_errors(where):
            yield
    except ReGeSError:
        raise
    except RuntimeError as error:
        if "already accessed" in str(error):
            raise CatalogError(
                f"{where}: another process has the folder open, and Qdrant's local mode allows one",
                hint="end the other process, or run a Qdrant server and pass a client of it",
            ) from error
        raise CatalogError(f"{where}: Qdrant says: {error}", hint="see Qdrant's message") from error
    except sqlite3.Error as error:
        if "full" in str(error) or "readonly" in str(error):
            raise StorageError(f"{where}: {error}", hint="free some space, then sync again") from error
        raise CatalogError(
            f"{where}: the store cannot be read ({error})", hint="delete the folder and index the items again"
        ) from error
    except (ApiException, RpcError) as error:
        raise CatalogError(
            f"{where}: the Qdrant server says: {error}", hint="is it running, and is the key right?"
        ) from error
    except ValueError as error:
        if "not found" in str(error):
            raise StoreNotFoundError(
                f"{where}: {error}", hint="it was deleted; index the items again"
            ) from error
        raise CatalogError(f"{where}: Qdrant says: {error}", hint="see Qdrant's message") from error


def _payload_key(key: str) -> str:
    """Return the name of a metadata key in the payload: itself, or its UTF-8 as hex where it has signs."""
    return key if _PLAIN.fullmatch(key) else _HIDDEN + key.encode(errors="surrogatepass").hex()


def _filter(where: Filter) -> models.Filter:
    """Translate a filter."""
    from qdrant_client import models

    if isinstance(where, Group):
        parts: list[Any] = [_filter(part) for part in where.parts]
        return models.Filter(must=parts) if where.joint == "and" else models.Filter(should=parts)
    if where.sign in _BOUNDS:
        bounds = models.Range.model_validate({_BOUNDS[where.sign]: where.value})
        return models.Filter(must=[models.FieldCondition(key=_payload_key(where.key), range=bounds)])
    equal = _equal(where)
    # "Should" needs one of them; the opposite is that none holds.
    return models.Filter(should=equal) if where.sign == "==" else models.Filter(must_not=equal)


def _equal(check: Check) -> list[Any]:
    """Conditions of which one holds when the value, or an entry of it, is equal."""
    from qdrant_client import models

    key, value = _payload_key(check.key), check.value
    found = []
    if not isinstance(value, float):
        found.append(models.FieldCondition(key=key, match=models.MatchValue(value=value)))
    if isinstance(value, float) or (not isinstance(value, (bool, str)) and abs(value) <= _EXACT):
        same = models.Range(gte=value, lte=value)
        found.append(models.FieldCondition(key=key, range=same))
    return found
