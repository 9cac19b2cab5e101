"""What happens to a catalog's table: opening, syncing to a set of items, checking before it goes live.

A sync embeds only what changed. Each batch is one atomic write of whole rows, keyed by item id, and removing
comes last. So a sync that was killed leaves rows that are right in themselves, and the next one finds by
their hashes what is missing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reges_index.catalog.encoder_names import DEFAULT_ENCODER
from reges_index.catalog.item import Item, TextTemplate
from reges_index.catalog.stores.base import HASH_KEY, Row, item_row
from reges_index.errors import CatalogError, EncoderMismatchError, InputError, StoreNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    from llama_index.core.base.embeddings.base import BaseEmbedding

    from reges_index.catalog.encoder import EncoderIdentity
    from reges_index.catalog.stores.base import Record, Stored, Table, Writer

__all__ = ["SyncReport", "check_whole", "open_table", "sync_table", "unique_items", "where_of"]

logger = logging.getLogger(__name__)

_HINT = "what was live stays live; index the items of the new catalog again"
# A vector finds itself with cosine 1, up to the rounding of 32-bit floats and their order of addition.
_SELF = 0.999

_warned: set[tuple[str, str]] = set()


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


def default_encoder_of(table: Table) -> str | None:
    """Return the encoder to open a table with where none is named.

    Returns
    -------
    str or None
        None is R, the encoder that ships. A table that plain all-MiniLM-L6-v2 has made, or that was made
        elsewhere and does not say by what, keeps it: a log line says what indexing anew would give.
    """
    try:
        record = table.record()
    except StoreNotFoundError:
        return None
    if record.identity is not None and record.identity.name != DEFAULT_ENCODER:
        return None
    if record.identity is not None and ("anew", str(table.place)) not in _warned:
        _warned.add(("anew", str(table.place)))
        logger.info(
            "catalog %r in %s was made with plain all-MiniLM-L6-v2 and goes on with it; indexed anew with "
            "encoder reges, the first item is right about twice as often (finetune/FUSION.md)",
            table.name,
            table.place,
        )
    return DEFAULT_ENCODER


def open_table(table: Table, identity: EncoderIdentity, *, create: bool) -> bool:
    """Check a table, making it first where that is asked for.

    Returns
    -------
    bool
        Whether it was made elsewhere, so that it can only be read.

    Raises
    ------
    StoreNotFoundError
        If it is not there and `create` is false.
    EncoderMismatchError
        If it was made with another encoder, dimension, template or space.
    CatalogError
        If its first sync was interrupted and `create` is false.
    """
    where = where_of(table)
    if create:
        table.create(identity)
    record = table.record()
    if record.identity is None:
        _check_foreign(record, identity, where)
        return True
    record.identity.check(identity, where)
    if not create and not record.complete:
        raise CatalogError(
            f"{where} is half-written: its first sync stopped after {table.count()} items",
            hint="index the items again; what is there is kept and not embedded twice",
        )
    if not create and record.broken:
        raise CatalogError(
            f"{where} is half-written: a sync was killed while its vector index was saved",
            hint="index the items again; the catalog is then made anew",
        )
    return False


def _check_foreign(record: Record, identity: EncoderIdentity, where: str) -> None:
    """Check what can be checked of a table that does not record its encoder; warn once."""
    if record.dimension is not None and record.dimension != identity.dimension:
        raise EncoderMismatchError(
            f"{where} holds vectors of dimension {record.dimension}; "
            f"{identity.name!r} makes {identity.dimension}",
            hint="pass the embed_model that the collection was made with",
        )
    if (where, identity.name) not in _warned:
        _warned.add((where, identity.name))
        logger.warning(
            "%s was made elsewhere and does not say with which encoder; %s is assumed", where, identity.name
        )


def check_whole(
    table: Table,
    made_with: EncoderIdentity,
    encoder: EncoderIdentity,
    read: Callable[[Stored], Item],
) -> int:
    """Read a whole table and check that it can serve.

    Parameters
    ----------
    table, made_with
        The one to check, and what its vectors were made with.
    encoder
        What they must have been made with.
    read
        Returns the item of a row.

    Returns
    -------
    int
        Number of its items.

    Raises
    ------
    InputError
        If it is empty.
    EncoderMismatchError
        If it was made with another encoder.
    CatalogError
        If it is half-written, an item cannot be read or has no vector, or the index does not find it.
    """
    where = where_of(table)
    encoder.check(made_with, "the live catalog")
    ids = table.ids()
    if not ids:
        raise InputError(f"{where} is empty", hint="a catalog needs at least one item; the old one stays")
    record = table.record()
    if record.broken or not record.complete:
        raise CatalogError(f"{where} is half-written", hint=_HINT)
    count = 0
    probe = None
    for start in range(0, len(ids), table.batch_size):
        for row in table.rows(ids[start : start + table.batch_size], with_vectors=True):
            count += 1
            read(row)
            vector = row.vector
            if vector is None or vector.shape != (encoder.dimension,) or not np.isfinite(vector).all():
                raise CatalogError(f"{where}: item {row.id!r} has no usable vector", hint=_HINT)
            if not vector.any():
                raise CatalogError(f"{where}: item {row.id!r} has a vector of zeros", hint=_HINT)
            probe = vector
    if probe is None or count != len(ids):
        raise CatalogError(f"{where}: {len(ids)} items are listed and {count} can be read", hint=_HINT)
    [hits] = table.search([probe.tolist()], 1, with_rows=False)
    if not hits.scores or hits.scores[0] < _SELF:
        raise CatalogError(f"{where}: its index does not find an item by the item's own vector", hint=_HINT)
    return count


def where_of(table: Table) -> str:
    """Return how messages name a table."""
    return f"catalog {table.name!r} in {table.place}"
