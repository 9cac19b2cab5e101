"""Writing a catalog into a LanceDB table, and clearing away the versions that this leaves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from reges_index.catalog.encoder import EncoderIdentity
from reges_index.catalog.rows import Row
from reges_index.catalog.stores.lancedb_errors import lance_errors
from reges_index.catalog.stores.lancedb_filter import joined
from reges_index.catalog.stores.lancedb_rows import dimension_of, row_values, schema_of

if TYPE_CHECKING:
    from reges_index.catalog.stores.lancedb import LanceTable

__all__ = ["COMPLETE", "LanceWriter"]

COMPLETE = "reges-complete"
"""Tag of a table that holds a whole catalog."""

# Older versions stay this long, for readers that are in the middle of one.
_KEPT = timedelta(minutes=10)
_FOREVER = timedelta(days=36500)


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
        with lance_errors(self._table.label):
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
        with lance_errors(self._table.label):
            opened.delete(f"id IN ({joined(ids)})")
        self._ids().difference_update(ids)
        self._has_changed = True

    def finish(self) -> None:
        """Mark the table as whole, bring its indices up to date, and clear away old versions."""
        opened = self._table.opened()
        with lance_errors(self._table.label):
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
