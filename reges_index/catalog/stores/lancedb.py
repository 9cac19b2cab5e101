"""A catalog in LanceDB: a folder (or object storage through a connection of yours), searched from disk.

Every write is a new version of the table, whole or not at all, so readers in any process see the rows of one
version, and a kill loses no more than the batch under way.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from reges_index.catalog.encoder import EncoderIdentity
from reges_index.catalog.filters import Filter
from reges_index.catalog.rows import content_mark
from reges_index.catalog.store import StoreLocation, write_lock
from reges_index.catalog.stores.base import Hits, Record, Stored, search_size
from reges_index.catalog.stores.lancedb_errors import lance_errors
from reges_index.catalog.stores.lancedb_filter import joined, sql_of, struct_sql_of
from reges_index.catalog.stores.lancedb_rows import dimension_of, kinds_of, schema_of, stored_rows
from reges_index.catalog.stores.lancedb_writer import COMPLETE, LanceWriter
from reges_index.errors import CatalogError, ConfigError, StoreNotFoundError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["LanceTable"]

_FORMAT = 1
_NOTE = b"reges"
_BATCH = 5000
_ALL = 2**31 - 1

_write_locks: dict[Path | int, threading.RLock] = {}
_locking = threading.Lock()


class LanceTable:
    """A LanceDB table as a `Table`.

    Parameters
    ----------
    connection
        As from ``lancedb.connect``.
    name
        Of the table.
    """

    batch_size = _BATCH

    def __init__(self, connection: Any, name: str) -> None:
        self.name = name
        self._connection = connection
        uri = str(connection.uri)
        self.place = f"lancedb:{uri}"
        self._folder = None if urlsplit(uri).scheme else Path(uri)
        self.home: Hashable = connection if self._folder is None else self._folder
        with _locking:
            # One lock for each folder; other places are kept apart by their connection.
            self._write_lock = _write_locks.setdefault(self._folder or id(connection), threading.RLock())

    @classmethod
    def at(cls, folder: Path, name: str, *, create: bool) -> LanceTable:
        """Open a folder.

        Raises
        ------
        StoreNotFoundError
            If there is no such folder and `create` is false.
        StorageError
            If it cannot be made.
        ConfigError
            If lancedb is not installed.
        """
        try:
            import lancedb
        except ImportError as error:
            raise ConfigError(
                "a LanceDB store needs lancedb", hint="pip install 'reges-index[stores]'"
            ) from error
        if not folder.is_dir() and not create:
            raise StoreNotFoundError(
                f"lancedb:{folder}: there is no store", hint="check the path, or index the items there first"
            )
        with lance_errors(f"lancedb:{folder}"):
            folder.mkdir(parents=True, exist_ok=True)
            # Interval 0: every read looks whether another process has written.
            return cls(lancedb.connect(str(folder), read_consistency_interval=timedelta(0)), name)

    @property
    def label(self) -> str:
        """How messages name the table."""
        return f"catalog {self.name!r} in {self.place}"

    def sibling(self, name: str) -> LanceTable:
        """Return another table of the same store."""
        return LanceTable(self._connection, name)

    def names(self) -> list[str]:
        """Names of all tables, sorted."""
        names: list[str] = []
        with lance_errors(self.place):
            page = self._connection.list_tables()
            names += page.tables
            while page.page_token:
                page = self._connection.list_tables(page_token=page.page_token)
                names += page.tables
        return sorted(names)

    def create(self, identity: EncoderIdentity) -> None:
        """Make the table unless it is there."""
        with self._locked():
            if self.name not in self.names():
                self._create(identity)

    def _create(self, identity: EncoderIdentity) -> None:
        with lance_errors(self.label):
            note = json.dumps({"format": _FORMAT, "encoder": asdict(identity)}).encode()
            schema = schema_of(identity.dimension).with_metadata({_NOTE: note})
            self._connection.create_table(self.name, schema=schema)

    def record(self) -> Record:
        """Return what the table says of itself."""
        table = self.opened()
        with lance_errors(self.label):
            schema = table.schema
            complete = COMPLETE in table.tags.list()
        note = (schema.metadata or {}).get(_NOTE)
        if note is None:
            return Record(None, dimension_of(schema, self.label), complete=True, broken=False)
        values = json.loads(note)
        if values["format"] != _FORMAT:
            raise CatalogError(
                f"{self.label} has catalog format {values['format']}, this version reads {_FORMAT}",
                hint="index the items again, or update reges-index",
            )
        identity = EncoderIdentity(**values["encoder"])
        return Record(identity, identity.dimension, complete, broken=False)

    def drop(self) -> None:
        """Delete the table."""
        with self._locked():
            self._drop()

    def _drop(self) -> None:
        with lance_errors(self.label):
            self._connection.drop_table(self.name)

    def count(self) -> int:
        """Return the number of rows."""
        table = self.opened()
        with lance_errors(self.label):
            return int(table.count_rows())

    def ids(self, where: Filter | None = None) -> list[str]:
        """Return the ids of the rows that pass a filter."""
        found: list[str] = self._read(["id"], self._sql(where)).column("id").to_pylist()
        return found

    def marks(self) -> dict[str, str]:
        """Return a hash of every row's content."""
        if not self._is_own(self.opened()):
            return {row.id: content_mark(row.metadata, row.document) for row in self.rows(self.ids())}
        rows = self._read(["id", "hash"], None)
        return dict(zip(rows.column("id").to_pylist(), rows.column("hash").to_pylist(), strict=True))

    def rows(self, ids: Sequence[str], *, with_vectors: bool = False) -> Iterator[Stored]:
        """Iterate over rows, each batch as it is when it is read."""
        columns = ["id", "text", "metadata", *(["vector"] if with_vectors else [])]
        for start in range(0, len(ids), _BATCH):
            found = self._read(columns, f"id IN ({joined(ids[start : start + _BATCH])})")
            yield from stored_rows(found)

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
        table = self.opened()
        with lance_errors(self.label):
            wanted = search_size(top_k, table.count_rows())
            if not vectors or not wanted:
                return [Hits([], [], []) for _ in vectors]
            columns = ["id", "_distance", *(["text", "metadata"] if with_rows else [])]
            columns += ["vector"] if with_vectors else []
            limits = self._sql(where)
            hits = []
            for vector in vectors:
                query = table.search(np.asarray(vector, dtype=np.float32), vector_column_name="vector")
                query = query.distance_type("cosine").limit(wanted).select(columns)
                found = (query if limits is None else query.where(limits, prefilter=True)).to_arrow()
                distances = np.asarray(found.column("_distance").to_pylist(), dtype=np.float64)
                scores = np.clip(1.0 - np.nan_to_num(distances, nan=1.0), -1.0, 1.0)  # nan: a zero vector
                rows = list(stored_rows(found)) if with_rows else []
                hits.append(Hits(found.column("id").to_pylist(), scores.tolist(), rows))
        return hits

    def search_hybrid(
        self, text: str, vector: Sequence[float], top_k: int, *, where: Filter | None = None
    ) -> Hits:
        """Find rows by BM25 over their text and by vector, joined by reciprocal rank (LanceDB's default).

        The index of words is made at the first such search and kept up to date by each sync.
        """
        table = self.opened()
        limits = self._sql(where)
        with lance_errors(self.label):
            wanted = search_size(top_k, table.count_rows())
            if not wanted:
                return Hits([], [], [])
            if not any(index.columns == ["text"] for index in table.list_indices()):
                self._index_words()
                table = self.opened()
            query = table.search(query_type="hybrid", vector_column_name="vector", fts_columns="text")
            query = query.vector(np.asarray(vector, dtype=np.float32)).text(text).distance_type("cosine")
            query = query.limit(wanted)
            found = (query if limits is None else query.where(limits, prefilter=True)).to_arrow()
        scores = [float(score) for score in found.column("_relevance_score").to_pylist()]
        return Hits(found.column("id").to_pylist(), scores, list(stored_rows(found)))

    def _index_words(self) -> None:
        from lancedb.index import FTS

        with self._locked():
            table = self.opened()
            if not any(index.columns == ["text"] for index in table.list_indices()):
                table.create_index("text", config=FTS())

    @contextmanager
    def writing(self) -> Iterator[LanceWriter]:
        """Let one writer at a time in, of this and of other processes."""
        with self._locked():
            yield LanceWriter(self)

    def recreate(self, identity: EncoderIdentity) -> None:
        """Start anew with an empty table; for the writer, who has the lock."""
        self._drop()
        self._create(identity)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        process = nullcontext() if self._folder is None else write_lock(StoreLocation(self._folder))
        with self._write_lock, process:
            yield

    def opened(self) -> Any:
        """Return LanceDB's own table, at its newest version."""
        with lance_errors(self.label):
            try:
                return self._connection.open_table(self.name)
            except ValueError as error:
                names = self.names()
                known = f"catalogs there: {', '.join(names)}" if names else "the store is empty"
                raise StoreNotFoundError(
                    f"{self.place}: there is no catalog {self.name!r}", hint=known
                ) from error

    def _is_own(self, table: Any) -> bool:
        return _NOTE in (table.schema.metadata or {})

    def _sql(self, where: Filter | None) -> str | None:
        if where is None:
            return None
        table = self.opened()
        return sql_of(where) if self._is_own(table) else struct_sql_of(where, kinds_of(table.schema))

    def _read(self, columns: list[str], sql: str | None) -> pa.Table:
        table = self.opened()
        with lance_errors(self.label):
            query = table.search().select(columns)
            return (query if sql is None else query.where(sql)).limit(_ALL).to_arrow()
