"""A catalog in LanceDB: a folder (or object storage through a connection of yours), searched from disk.

Every write is a new version of the table, whole or not at all, so readers in any process see the rows of one
version, and a kill loses no more than the batch under way. Columns have types and items have any metadata, so
a row has its facets in one column, for equality, and its numbers as JSON in another, for comparing.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from reges_index.catalog.encoder import EncoderIdentity
from reges_index.catalog.filters import Filter, Group, facet, is_number
from reges_index.catalog.place import StoreLocation, no_store, store_errors, write_lock
from reges_index.catalog.stores.base import (
    FACETS_KEY,
    FORMAT,
    HASH_KEY,
    Hit,
    Row,
    Stored,
    Table,
    Wanted,
    whole_node,
)
from reges_index.errors import CatalogError, ConfigError, ReGeSError, StorageError, StoreNotFoundError

if TYPE_CHECKING:
    import pyarrow as pa

_NOTE = b"reges"
_BATCH = 5000
_ALL = 2**31 - 1
_COMPLETE = "reges-complete"  # tag of a table that holds a whole catalog

# Older versions stay this long, for readers that are in the middle of one.
_KEPT = timedelta(minutes=10)
_FOREVER = timedelta(days=36500)

_write_locks: dict[Path | int, threading.RLock] = {}
_locking = threading.Lock()


class LanceTable(Table):
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
        super().__init__(name)
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
        """Open a folder; errors are those of `reges_index.catalog.stores.table_at`."""
        try:
            import lancedb
        except ImportError as error:
            raise ConfigError(
                "a LanceDB store needs lancedb", hint="pip install 'reges-index[stores]'"
            ) from error
        if not folder.is_dir() and not create:
            raise no_store(f"lancedb:{folder}")
        with store_errors(f"lancedb:{folder}"):
            folder.mkdir(parents=True, exist_ok=True)
        # Interval 0: every read looks whether another process has written.
        return cls(lancedb.connect(str(folder), read_consistency_interval=timedelta(0)), name)

    def sibling(self, name: str) -> LanceTable:
        """Return another table of the same store."""
        return LanceTable(self._connection, name)

    def names(self) -> list[str]:
        """Names of all tables, sorted."""
        with self._errors():
            page = self._connection.list_tables()
            names = list(page.tables)
            while page.page_token:
                page = self._connection.list_tables(page_token=page.page_token)
                names += page.tables
        return sorted(names)

    def _create(self, identity: EncoderIdentity) -> None:
        with self._errors():
            note = json.dumps({"format": FORMAT, "encoder": asdict(identity)}).encode()
            schema = _schema(identity.dimension).with_metadata({_NOTE: note})
            self._connection.create_table(self.name, schema=schema)

    def _note(self) -> dict[str, Any] | None:
        with self._opened() as table:
            schema = table.schema
            if (note := (schema.metadata or {}).get(_NOTE)) is not None:
                return {**json.loads(note), "complete": _COMPLETE in table.tags.list()}
        if not {"id", "vector", "text", "metadata"} <= set(schema.names):
            raise CatalogError(
                f"{self.label} has the columns {', '.join(schema.names)}; a catalog needs id, vector, text, "
                "metadata",
                hint="make a catalog of your items with ItemCatalog.from_items",
            )
        return None

    def _drop(self) -> None:
        with self._errors():
            self._connection.drop_table(self.name)

    def count(self) -> int:
        """Return the number of rows."""
        with self._opened() as table:
            return int(table.count_rows())

    def ids(self, where: Filter | None = None) -> list[str]:
        """Return the ids of the rows that pass a filter."""
        found: list[str] = self._columns(["id"], _sql(where)).column("id").to_pylist()
        return found

    def marks(self) -> dict[str, str]:
        """Return the hash of every row's item."""
        rows = self._columns(["id", "hash"], None)
        hashes = (mark or "" for mark in rows.column("hash").to_pylist())
        return dict(zip(rows.column("id").to_pylist(), hashes, strict=True))

    def _read(self, ids: Sequence[str], with_vectors: bool) -> list[Stored]:
        columns = ["id", "text", "metadata", *(["vector"] if with_vectors else [])]
        return _rows(self._columns(columns, _among(ids)))

    def _columns(self, columns: list[str], sql: str | None) -> pa.Table:
        with self._opened() as table:
            query = table.search().select(columns)
            return (query if sql is None else query.where(sql)).limit(_ALL).to_arrow()

    def _nearest(self, wanted: Wanted) -> list[list[Hit]]:
        columns = ["id", "_distance", *(["text", "metadata"] if wanted.with_rows else [])]
        sql = _sql(wanted.where)
        hits = []
        with self._opened() as table:
            for vector in wanted.vectors:
                query = table.search(np.asarray(vector, dtype=np.float32), vector_column_name="vector")
                query = query.distance_type("cosine").limit(wanted.size).select(columns)
                found = (query if sql is None else query.where(sql, prefilter=True)).to_arrow()
                distances = np.asarray(found.column("_distance").to_pylist(), dtype=np.float64)
                scores = np.clip(1.0 - np.nan_to_num(distances, nan=1.0), -1.0, 1.0)  # nan: a zero vector
                hits.append(list(map(Hit, _rows(found), scores.tolist())))
        return hits

    def search_hybrid(
        self, text: str, vector: Sequence[float], top_k: int, *, where: Filter | None = None
    ) -> list[Hit]:
        """Find rows by BM25 over their text and by vector, joined by reciprocal rank (LanceDB's default).

        The index of words is made at the first such search and kept up to date by each sync.
        """
        if not (wanted := min(top_k, self.count())):
            return []
        if not self._has_words():
            from lancedb.index import FTS

            with self.writing(), self._opened() as table:
                if not self._has_words():
                    table.create_index("text", config=FTS())
        with self._opened() as table:
            query = table.search(query_type="hybrid", vector_column_name="vector", fts_columns="text")
            query = query.vector(np.asarray(vector, dtype=np.float32)).text(text).distance_type("cosine")
            sql = _sql(where)
            query = query.limit(wanted)
            found = (query if sql is None else query.where(sql, prefilter=True)).to_arrow()
        return list(map(Hit, _rows(found), map(float, found.column("_relevance_score").to_pylist())))

    def _has_words(self) -> bool:
        with self._opened() as table:
            return any(index.columns == ["text"] for index in table.list_indices())

    @contextmanager
    def writing(self) -> Iterator[LanceTable]:
        """Let one writer at a time in, of this and of other processes."""
        process = nullcontext() if self._folder is None else write_lock(StoreLocation(self._folder))
        with self._write_lock, process:
            yield self

    def write(self, rows: Sequence[Row], vectors: Sequence[Sequence[float]]) -> None:
        """Add rows, or put them in the place of those with the same ids, as one version of the table."""
        import pyarrow as pa

        with self._opened() as table:
            data = pa.Table.from_pylist(
                list(map(_values, rows, vectors)),
                # Not the table's own: that has JSON as bytes, and text would be kept as it is.
                schema=_schema(table.schema.field("vector").type.list_size),
            )
            if not table.count_rows(_among([row.id for row in rows])):
                table.add(data)
            else:
                merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
                merge.execute(data)

    def _delete(self, ids: Sequence[str]) -> None:
        with self._opened() as table:
            table.delete(_among(ids))

    def finish(self) -> None:
        """Mark the table as whole, bring its indices up to date, and clear away old versions."""
        with self._opened() as table:
            marked = table.tags.list().get(_COMPLETE)
            if marked is None:
                table.tags.create(_COMPLETE, table.version)
            elif marked["version"] == table.version:  # nothing has changed
                return
            # Cleaning refuses to remove a tagged version, so the tag has to be on the newest one before.
            table.optimize(cleanup_older_than=_FOREVER)
            table.tags.update(_COMPLETE, table.version)
            table.optimize(cleanup_older_than=_KEPT)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """Lend LanceDB's own table, at its newest version."""
        with self._errors():
            yield self._connection.open_table(self.name)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with store_errors(self.label, lambda error: _explained(self.label, error)):
            yield


def _explained(where: str, error: Exception) -> ReGeSError | None:
    """Return what an error of LanceDB means, which is a plain RuntimeError or ValueError with a text."""
    text = str(error)
    if not isinstance(error, (RuntimeError, ValueError)):
        return None
    if "No space left" in text or "os error 28" in text:
        return StorageError(f"{where}: the disk is full", hint="free some space, then sync again")
    if "ot found" in text:
        return StoreNotFoundError(f"{where}: {text}", hint="index the items again")
    return CatalogError(f"{where}: LanceDB says: {text}", hint="see LanceDB's message")


def _schema(dimension: int) -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("id", pa.string()),
            pa.field("doc_id", pa.string()),
            pa.field("vector", pa.list_(pa.float32(), dimension)),
            pa.field("text", pa.string()),
            # What LlamaIndex's own LanceDBVectorStore reads a node from.
            pa.field("metadata", pa.struct([("_node_content", pa.string()), ("_node_type", pa.string())])),
            pa.field("facets", pa.list_(pa.string())),
            pa.field("numbers", pa.json_(pa.utf8())),
            pa.field("hash", pa.string()),
        ]
    )


def _values(row: Row, vector: Sequence[float]) -> dict[str, Any]:
    """Return what is kept of a row, by column."""
    return {
        "id": row.id,
        "doc_id": row.metadata.get("doc_id"),
        "vector": np.asarray(vector, dtype=np.float32),
        "text": row.document,
        "metadata": whole_node(row),
        "facets": row.metadata[FACETS_KEY],
        "numbers": json.dumps({key: value for key, value in row.metadata.items() if is_number(value)}),
        "hash": row.metadata.get(HASH_KEY),
    }


def _rows(found: pa.Table) -> list[Stored]:
    """Read rows from the column ``id`` and, where they are there, ``text``, ``metadata`` and ``vector``."""
    columns = {name: found.column(name).to_pylist() for name in found.column_names if name != "vector"}
    nothing = [None] * found.num_rows
    vectors = found.column("vector").to_pylist() if "vector" in found.column_names else nothing
    return [
        Stored(
            row_id,
            text,
            # Other programs' rows may have no value in some of their columns.
            None if told is None else {key: value for key, value in told.items() if value is not None},
            None if vector is None else np.asarray(vector, dtype=np.float64),
        )
        for row_id, text, told, vector in zip(
            columns["id"],
            columns.get("text", nothing),
            columns.get("metadata", nothing),
            vectors,
            strict=True,
        )
    ]


def _sql(where: Filter | None) -> str | None:
    """Translate a filter for tables of this package."""
    if where is None:
        return None
    if isinstance(where, Group):
        return "(" + f" {where.joint.upper()} ".join(filter(None, map(_sql, where.parts))) + ")"
    if where.sign in ("==", "!="):
        found = f"array_has(facets, {_quoted(facet(where.key, where.value))})"
        return found if where.sign == "==" else f"(NOT {found})"
    return f"coalesce(json_get_float(numbers, {_quoted(where.key)}) {where.sign} {where.value!r}, false)"


def _among(ids: Iterable[str]) -> str:
    return f"id IN ({', '.join(map(_quoted, ids))})"


def _quoted(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"
