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
from reges_index.catalog.place import StoreLocation
from reges_index.catalog.stores.base import Hits, Record, Row, Stored, content_mark, search_size
from reges_index.catalog.stores.guards import store_errors, write_lock
from reges_index.catalog.stores.lancedb_rows import (
    dimension_of,
    joined,
    row_values,
    schema_of,
    sql_of,
    stored_rows,
)
from reges_index.errors import CatalogError, ConfigError, ReGeSError, StorageError, StoreNotFoundError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["LanceTable"]

_FORMAT = 2
_NOTE = b"reges"
_BATCH = 5000
_ALL = 2**31 - 1

COMPLETE = "reges-complete"
"""Tag of a table that holds a whole catalog."""

# Older versions stay this long, for readers that are in the middle of one.
_KEPT = timedelta(minutes=10)
_FOREVER = timedelta(days=36500)

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
        with _errors(f"lancedb:{folder}"):
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
        with _errors(self.place):
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
        with _errors(self.label):
            note = json.dumps({"format": _FORMAT, "encoder": asdict(identity)}).encode()
            schema = schema_of(identity.dimension).with_metadata({_NOTE: note})
            self._connection.create_table(self.name, schema=schema)

    def record(self) -> Record:
        """Return what the table says of itself."""
        table = self.opened()
        with _errors(self.label):
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
        with _errors(self.label):
            self._connection.drop_table(self.name)

    def count(self) -> int:
        """Return the number of rows."""
        table = self.opened()
        with _errors(self.label):
            return int(table.count_rows())

    def ids(self, where: Filter | None = None) -> list[str]:
        """Return the ids of the rows that pass a filter."""
        rows = self._read(["id"], None if where is None else sql_of(where))
        found: list[str] = rows.column("id").to_pylist()
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
        among: Sequence[str] | None = None,
        with_rows: bool = True,
        with_vectors: bool = False,
    ) -> list[Hits]:
        """Find the nearest rows of each vector."""
        table = self.opened()
        with _errors(self.label):
            wanted = search_size(top_k, table.count_rows())
            if not vectors or not wanted:
                return [Hits([], [], []) for _ in vectors]
            columns = ["id", "_distance", *(["text", "metadata"] if with_rows else [])]
            columns += ["vector"] if with_vectors else []
            limits = None if where is None else sql_of(where)
            if among is not None:
                chosen = f"id IN ({joined(among)})"
                limits = chosen if limits is None else f"{limits} AND {chosen}"
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
        limits = None if where is None else sql_of(where)
        with _errors(self.label):
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
        with _errors(self.label):
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

    def _read(self, columns: list[str], sql: str | None) -> pa.Table:
        table = self.opened()
        with _errors(self.label):
            query = table.search().select(columns)
            return (query if sql is None else query.where(sql)).limit(_ALL).to_arrow()


class LanceWriter:
    """Writes batches of rows, each as one version of the table; for whoever holds the table's lock."""

    broken = False

    def __init__(self, table: LanceTable) -> None:
        self._table = table
        self._known: set[str] | None = None
        self._has_changed = False

    def identity(self) -> EncoderIdentity | None:
        """Return what the table records of its encoder."""
        return self._table.record().identity

    def recreate(self, identity: EncoderIdentity) -> None:
        """Start anew with an empty table."""
        self._table.recreate(identity)
        self._known, self._has_changed = None, True

    def write(self, rows: Sequence[Row], vectors: Sequence[Sequence[float]]) -> None:
        """Add rows, or put them in the place of those with the same ids."""
        import pyarrow as pa

        known = self._ids()
        opened = self._table.opened()
        with _errors(self._table.label):
            data = pa.Table.from_pylist(
                [row_values(row, vector) for row, vector in zip(rows, vectors, strict=True)],
                # Not the table's own: that has JSON as bytes, and text would be kept as it is.
                schema=schema_of(dimension_of(opened.schema, self._table.label)),
            )
            if known.isdisjoint(row.id for row in rows):
                opened.add(data)
            else:
                merge = opened.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
                merge.execute(data)
        known.update(row.id for row in rows)
        self._has_changed = True

    def delete(self, ids: Sequence[str]) -> None:
        """Delete rows by id."""
        opened = self._table.opened()
        with _errors(self._table.label):
            opened.delete(f"id IN ({joined(ids)})")
        self._ids().difference_update(ids)
        self._has_changed = True

    def finish(self) -> None:
        """Mark the table as whole, bring its indices up to date, and clear away old versions."""
        opened = self._table.opened()
        with _errors(self._table.label):
            if COMPLETE not in opened.tags.list():
                opened.tags.create(COMPLETE, opened.version)
            elif not self._has_changed:
                return
            # Cleaning refuses to remove a tagged version, so the tag has to be on the newest one before.
            opened.optimize(cleanup_older_than=_FOREVER)
            opened.tags.update(COMPLETE, opened.version)
            opened.optimize(cleanup_older_than=_KEPT)

    def _ids(self) -> set[str]:
        if self._known is None:
            self._known = set(self._table.ids())
        return self._known


@contextmanager
def _errors(where: str) -> Iterator[None]:
    """Translate errors of LanceDB, which are plain RuntimeError, ValueError and OSError with a text."""
    try:
        with store_errors(where):
            yield
    except ReGeSError:
        raise
    except (RuntimeError, ValueError) as error:
        text = str(error)
        if "No space left" in text or "os error 28" in text:
            raise StorageError(
                f"{where}: the disk is full", hint="free some space, then sync again"
            ) from error
        if "Not found" in text or "was not found" in text:
            raise StoreNotFoundError(f"{where}: {text}", hint="index the items again") from error
        raise CatalogError(f"{where}: LanceDB says: {text}", hint="see LanceDB's message") from error
