"""Changing the items of a catalog: added, changed and removed, in steps that a kill cannot break."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from reges_index.catalog.item import Item
from reges_index.catalog.reader import CatalogReader, where_of
from reges_index.catalog.stores.base import Writer
from reges_index.catalog.sync import SyncReport, sync_table, unique_items
from reges_index.dialogue import TitleIndex
from reges_index.errors import CatalogError, InputError

__all__ = ["CatalogWriter"]

logger = logging.getLogger(__name__)

_SYNC_BATCH = 256


class CatalogWriter(CatalogReader):
    """What an `ItemCatalog` does to its items; how it reads them is `CatalogReader`.

    Attributes
    ----------
    changes
        How often this object has written to the catalog: what it has prepared of the items may be out of date
        once this has changed. Other objects and processes count for themselves.
    """

    changes: int = 0
    _titles: tuple[tuple[int, int], TitleIndex] | None = None

    def titles(self) -> TitleIndex:
        """Return the index of the items' titles, made once for each state of the catalog.

        Items that another process has put in the place of as many others are known after the next opening.
        """
        state = self.changes, len(self)
        if self._titles is None or self._titles[0] != state:
            self._titles = state, TitleIndex.of(self.items())
        return self._titles[1]

    def sync(
        self,
        items: Iterable[Item],
        *,
        show_progress: bool = False,
        batch_size: int = _SYNC_BATCH,
        source: CatalogReader | None = None,
    ) -> SyncReport:
        """Make the catalog hold exactly these items, embedding only what is new or changed.

        May be killed at any point and run again. Syncs of one folder wait for each other, also in different
        processes; on a server, sync from one place.

        Parameters
        ----------
        items
            With unique ids, at least one.
        show_progress
            Show a progress bar on stderr.
        batch_size
            Items embedded and written in one step: the most that a kill can cost. Never more than the store
            takes at once.
        source
            A catalog of the same encoder, whose vectors are taken for items that are the same there.

        Raises
        ------
        InputError
            If there are no items, ids repeat, or `batch_size` is below 1.
        EncoderMismatchError
            If the source has another encoder.
        CatalogError
            If the catalog was made elsewhere, or another program writes to it.
        StorageError
            If the disk is full or the folder cannot be written. What was written stays.
        """
        return self._write(
            items, show_progress=show_progress, batch_size=batch_size, remove_others=True, source=source
        )

    def add(
        self, items: Iterable[Item], *, show_progress: bool = False, batch_size: int = _SYNC_BATCH
    ) -> SyncReport:
        """Add items, or replace those that have changed, and leave all others; else as `sync`."""
        return self._write(
            items, show_progress=show_progress, batch_size=batch_size, remove_others=False, source=None
        )

    def remove(self, ids: Iterable[str]) -> int:
        """Remove items.

        Returns
        -------
        int
            How many there were.

        Raises
        ------
        InputError
            If nothing would be left.
        CatalogError
            If an id is not in the catalog (nothing is removed then), or the catalog was made elsewhere.
        """
        if isinstance(ids, str):
            raise InputError(f"ids is the text {ids!r}", hint="pass a list of ids")
        gone = list(dict.fromkeys(ids))
        with self._writing() as writer:
            self.get(gone)
            if gone and len(gone) >= self.table.count():
                raise InputError("no item would be left", hint="a catalog needs at least one item")
            for start in range(0, len(gone), self.table.batch_size):
                writer.delete(gone[start : start + self.table.batch_size])
            writer.finish()
        return len(gone)

    def drop(self) -> None:
        """Delete the catalog from its store, for good.

        Raises
        ------
        CatalogError
            If it was made elsewhere.
        """
        self._refuse_foreign()
        self.table.drop()

    def _write(
        self,
        items: Iterable[Item],
        *,
        show_progress: bool,
        batch_size: int,
        remove_others: bool,
        source: CatalogReader | None,
    ) -> SyncReport:
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}", hint="write at least one item at a time")
        self._refuse_foreign()
        if source is not None:
            source.encoder.check(self.encoder, where_of(source.table))
        checked = unique_items(items)
        with self._writing() as writer:
            report = sync_table(
                self.table,
                writer,
                checked,
                lambda: self.embed_model,
                self.template,
                batch_size=min(batch_size, self.table.batch_size),
                show_progress=show_progress,
                remove_others=remove_others,
                source=None if source is None else source.table,
            )
            writer.finish()
        return report

    def _refuse_foreign(self) -> None:
        if self.is_read_only:
            raise CatalogError(
                f"{where_of(self.table)} was made elsewhere and is only read",
                hint="make a catalog of its items: ItemCatalog.from_items(catalog.items(), ...)",
            )

    @contextmanager
    def _writing(self) -> Iterator[Writer]:
        self._refuse_foreign()
        where = where_of(self.table)
        with self.table.writing() as writer:
            if (recorded := writer.identity()) is not None:  # made anew by another process since we opened it
                recorded.check(self.encoder, where)
            if writer.broken:
                logger.warning(
                    "%s: a write was killed while its vector index was saved; all items are embedded again",
                    where,
                )
                writer.recreate(self.encoder)
            try:
                yield writer
            finally:
                self.changes += 1  # also where it failed half-way
