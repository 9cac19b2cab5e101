"""Bringing a table to a given set of items, embedding only what changed.

Each batch is one atomic write of whole rows, keyed by item id, and removing comes last. So a sync that was
killed leaves rows that are right in themselves, and the next one finds by their hashes what is missing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reges_index.catalog.item import Item, TextTemplate
from reges_index.catalog.rows import HASH_KEY, Row, item_row
from reges_index.errors import CatalogError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from llama_index.core.base.embeddings.base import BaseEmbedding

    from reges_index.catalog.stores.base import Table, Writer

__all__ = ["SyncReport", "sync_table", "unique_items"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SyncReport:
    """What a sync did, in items, and how long it took."""

    added: int
    changed: int
    removed: int
    unchanged: int
    seconds: float


def unique_items(items: Iterable[Item]) -> list[Item]:
    """Return the items as a list.

    Raises
    ------
    InputError
        If there are none, or two have the same id.
    """
    seen: dict[str, Item] = {}
    for item in items:
        if item.id in seen:
            raise InputError(
                f"id {item.id!r} occurs twice ({seen[item.id].title!r} and {item.title!r})",
                hint="ids must be unique; titles need not be",
            )
        seen[item.id] = item
    if not seen:
        raise InputError("the catalog is empty", hint="a catalog needs at least one item")
    return list(seen.values())


def sync_table(
    table: Table,
    writer: Writer,
    items: Sequence[Item],
    encoder: Callable[[], BaseEmbedding],
    template: TextTemplate,
    *,
    batch_size: int,
    show_progress: bool,
    remove_others: bool = True,
    source: Table | None = None,
) -> SyncReport:
    """Make the table hold exactly these items.

    Parameters
    ----------
    table, writer
        Made by this package, and the write in progress.
    items
        With unique ids, at least one.
    encoder
        Returns the encoder; called only if something must be embedded.
    template
        Of the embedded text.
    batch_size
        Rows embedded and written in one step.
    show_progress
        Show a progress bar on stderr.
    remove_others
        Remove what is not among the items.
    source
        Another table of the same encoder and template, to take the vectors of equal items from.

    Raises
    ------
    CatalogError
        If the table does not hold what was written, that is, someone else writes to it.
    """
    started = time.perf_counter()
    stored = table.marks()
    wanted = {item.id: item for item in items}
    todo = [item for item in items if stored.get(item.id) != item.content_hash]
    added = sum(item.id not in stored for item in todo)
    gone = [item_id for item_id in stored if item_id not in wanted] if remove_others else []
    known = source.marks() if source is not None and todo else {}
    with _progress(len(todo), show_progress and bool(todo)) as advance:
        for rows in _batches(todo, template, batch_size):
            ready = [row.id for row in rows if known.get(row.id) == row.metadata[HASH_KEY]]
            writer.write(rows, _vectors(rows, source, ready, encoder))
            advance(len(rows))
    for start in range(0, len(gone), batch_size):
        writer.delete(gone[start : start + batch_size])
    expected = len(wanted) if remove_others else len(stored) + added
    if (count := table.count()) != expected:
        raise CatalogError(
            f"catalog {table.name!r} holds {count} items after a write that should have left {expected}",
            hint="another program writes to it at the same time; let one finish, then sync again",
        )
    report = SyncReport(
        added=added,
        changed=len(todo) - added,
        removed=len(gone),
        unchanged=len(items) - len(todo),
        seconds=time.perf_counter() - started,
    )
    logger.info("synced %s: %s", table.name, report)
    return report


def _batches(items: list[Item], template: TextTemplate, batch_size: int) -> Iterator[list[Row]]:
    # Texts of like length together, so that little is spent on padding. The longest first: what does not fit
    # into memory fails at once, not at the end.
    rows = sorted(
        (item_row(item, template) for item in items), key=lambda row: len(row.document), reverse=True
    )
    for start in range(0, len(rows), batch_size):
        yield rows[start : start + batch_size]


def _vectors(
    rows: list[Row], source: Table | None, ready: list[str], encoder: Callable[[], BaseEmbedding]
) -> list[list[float]]:
    """Take the vectors that are ready from the source, and embed the texts of the other rows."""
    found: dict[str, list[float]] = {}
    if source is not None and ready:
        for row in source.rows(ready, with_vectors=True):
            if row.vector is not None:
                found[row.id] = row.vector.tolist()
    rest = [row for row in rows if row.id not in found]
    if rest:
        embedded = encoder().get_text_embedding_batch([row.document for row in rest])
        found.update(zip((row.id for row in rest), embedded, strict=True))
    return [found[row.id] for row in rows]


@contextmanager
def _progress(total: int, show: bool) -> Iterator[Callable[[int], None]]:
    if not show:
        yield lambda _done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("Embedding items", total=total)
        yield lambda done: progress.advance(task, done)
