"""Bringing a collection to a given set of items, embedding only what changed.

Each batch is one atomic write of whole rows, keyed by item id, and removing comes last. So a sync that was
killed leaves rows that are right in themselves, and the next one finds by their hashes what is missing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chromadb import Collection

from reges_index.catalog.item import Item
from reges_index.catalog.rows import HASH_KEY, Row, item_row, iter_rows
from reges_index.catalog.template import TextTemplate
from reges_index.errors import CatalogError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from llama_index.core.base.embeddings.base import BaseEmbedding

__all__ = ["SyncReport", "sync_collection", "unique_items"]

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


def sync_collection(
    collection: Collection,
    items: Sequence[Item],
    encoder: Callable[[], BaseEmbedding],
    template: TextTemplate,
    *,
    batch_size: int,
    show_progress: bool,
    checkpoint: Callable[[], None],
) -> SyncReport:
    """Make the collection hold exactly these items.

    Parameters
    ----------
    collection
        Made by this package.
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
    checkpoint
        Called after each batch, when it is in the vector index.

    Raises
    ------
    CatalogError
        If the collection does not hold what was written, that is, someone else writes to it.
    """
    started = time.perf_counter()
    stored = _stored_rows(collection, batch_size)
    wanted = {item.id: item for item in items}
    todo = [item for item in items if stored.get(item.id, {}).get(HASH_KEY) != item.content_hash]
    added = sum(item.id not in stored for item in todo)
    gone = [item_id for item_id in stored if item_id not in wanted]
    if todo or gone:
        checkpoint()
    with _progress(len(todo), show_progress and bool(todo)) as advance:
        for rows in _batches(todo, template, batch_size):
            _write(collection, rows, stored, encoder())
            checkpoint()
            advance(len(rows))
    for start in range(0, len(gone), batch_size):
        collection.delete(ids=gone[start : start + batch_size])
        _settle(collection)
        checkpoint()
    if (count := collection.count()) != len(wanted):
        raise CatalogError(
            f"catalog {collection.name!r} holds {count} items after a sync of {len(wanted)}",
            hint="another program writes to it at the same time; let one finish, then sync again",
        )
    report = SyncReport(
        added=added,
        changed=len(todo) - added,
        removed=len(gone),
        unchanged=len(items) - len(todo),
        seconds=time.perf_counter() - started,
    )
    logger.info("synced %s: %s", collection.name, report)
    return report


def _stored_rows(collection: Collection, batch_size: int) -> dict[str, dict[str, Any]]:
    """Return the hash and the metadata keys of every row (values are dropped: they hold the abstracts)."""
    ids = collection.get(include=[])["ids"]
    stored: dict[str, dict[str, Any]] = {}
    for rows in iter_rows(collection, ids, ["metadatas"], batch_size):
        for row_id, metadata in zip(rows["ids"], rows["metadatas"], strict=True):
            values = metadata or {}
            stored[row_id] = {**dict.fromkeys(values), HASH_KEY: values.get(HASH_KEY)}
    return stored


def _batches(items: list[Item], template: TextTemplate, batch_size: int) -> Iterator[list[Row]]:
    # Texts of like length together, so that little is spent on padding. The longest first: what does not fit
    # into memory fails at once, not at the end.
    rows = sorted(
        (item_row(item, template) for item in items), key=lambda row: len(row.document), reverse=True
    )
    for start in range(0, len(rows), batch_size):
        yield rows[start : start + batch_size]


def _write(
    collection: Collection, rows: list[Row], stored: dict[str, dict[str, Any]], encoder: BaseEmbedding
) -> None:
    documents = [row.document for row in rows]
    vectors = encoder.get_text_embedding_batch(documents)
    # An upsert merges metadata; None deletes the keys that only the old row has, in the same transaction, so
    # no kill can lose the item between a delete and an add.
    metadatas = [{**dict.fromkeys(stored.get(row.id, ())), **row.metadata} for row in rows]
    collection.upsert(
        ids=[row.id for row in rows], embeddings=vectors, documents=documents, metadatas=metadatas
    )
    _settle(collection, vectors[0])


def _settle(collection: Collection, vector: list[float] | None = None) -> None:
    """Wait until what was written is in the vector index (Chroma gets to it later, but before it answers)."""
    if vector is None:
        found = collection.get(limit=1, include=["embeddings"])["embeddings"]
        if found is None or len(found) == 0:
            return
        vector = list(found[0])
    collection.query(query_embeddings=[vector], n_results=1, include=[])


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
