"""`ItemCatalog`: the item set I of paper section 2.2, kept in a vector store.

A sync embeds only what changed. Each batch is one atomic write of whole rows, keyed by item id, and removing
comes last. So a sync that was killed leaves rows that are right in themselves, and the next one finds by
their hashes what is missing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llama_index.core.base.embeddings.base import BaseEmbedding

from reges_index.catalog.encoder import EncoderIdentity, encoder_identity
from reges_index.catalog.fields import FieldNames
from reges_index.catalog.item import DEFAULT_TEMPLATE, Item, TextTemplate
from reges_index.catalog.live_state import listed_once, live_catalogs
from reges_index.catalog.place import CatalogPlace, StoreLocation, check_name
from reges_index.catalog.reader import CatalogReader
from reges_index.catalog.stores import default_encoder_of, open_table, table_at, table_of
from reges_index.catalog.stores.base import HASH_KEY, AdoptedTable, AnyTable, Row, Table, item_row
from reges_index.dialogue import TitleIndex
from reges_index.errors import CatalogError, InputError

if TYPE_CHECKING:
    from typing import Unpack

    from llama_index.core.vector_stores.types import BasePydanticVectorStore

logger = logging.getLogger(__name__)

_SYNC_BATCH = 256


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


def table_in(
    persist_dir: str | Path | None, place: CatalogPlace, *, create: bool
) -> tuple[Table, StoreLocation]:
    """Return the table that the options of `ItemCatalog.open` name, and where its store is.

    Raises
    ------
    InputError
        If no store is named, or more than one.
    """
    if unknown := sorted(place.keys() - CatalogPlace.__annotations__.keys()):
        known = ", ".join(CatalogPlace.__annotations__)
        raise TypeError(f"unknown option {unknown[0]!r} of a catalog; there are persist_dir, {known}")
    url, vector_store = place.get("url"), place.get("vector_store")
    location = StoreLocation.of(persist_dir, url)
    if vector_store is not None:
        if persist_dir is not None or url is not None:
            raise InputError("both a vector_store and a place are given", hint="name the store once")
        table = table_of(vector_store)
        check_name(table.name)
        return table, location
    if persist_dir is None and url is None and not create:
        raise InputError(
            "no store is named", hint="pass persist_dir, url or vector_store, or create=True for memory"
        )
    return table_at(location, check_name(place.get("name", "items")), create=create), location


class ItemCatalog(CatalogReader):
    """Items in a vector store; made by `open` or `from_items`.

    The store is Chroma's unless you say otherwise: a folder ``qdrant:FOLDER`` or ``lancedb:FOLDER``, or a
    vector store of LlamaIndex's that you have (Chroma, Qdrant, LanceDB). All of them keep the same items,
    give the same scores and obey the same filters.

    Safe to use from several threads, and a folder from several processes: one writes at a time, and the
    others see it at their next call. While one writes, reading in another may fail; where that matters, share
    the catalog through a server (``chroma run``). Qdrant's local mode lets one process in at a time.

    Examples
    --------
    >>> from reges_index.catalog import Item, ItemCatalog
    >>> catalog = ItemCatalog.from_items([Item(id="1", title="Alien"), Item(id="2", title="Bambi")])
    >>> [hit.node.node_id for hit in catalog.as_retriever(similarity_top_k=1).retrieve("a deer in the wood")]
    ['2']

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
        # Counting the items of a table made elsewhere would mean to read them all.
        stored = self.table.inner if isinstance(self.table, AdoptedTable) else self.table
        state = self.changes, stored.count()
        if self._titles is None or self._titles[0] != state:
            self._titles = state, TitleIndex.of(self.items())
        return self._titles[1]

    def __init__(
        self,
        table: Table,
        encoder: EncoderIdentity,
        embed_model: BaseEmbedding | str | None,
        template: TextTemplate,
        field_names: FieldNames,
        *,
        create: bool,
    ) -> None:
        super().__init__(encoder, embed_model, template)
        self._field_names = field_names
        self._table = open_table(table, encoder, template, field_names, create=create)

    @classmethod
    def open(
        cls, persist_dir: str | Path | None = None, *, create: bool = False, **place: Unpack[CatalogPlace]
    ) -> ItemCatalog:
        """Open a catalog.

        Parameters
        ----------
        persist_dir
            Folder of an embedded store; Chroma's, or with ``qdrant:`` or ``lancedb:`` before it theirs. With
            neither a folder nor a `url` or `vector_store` the catalog is in memory and `create` must be true.
        create
            Make an empty catalog where there is none, and allow one whose first sync was interrupted.
        **place
            ``url``, ``vector_store``, ``name``, ``embed_model``, ``template``, ``title_key`` and
            ``field_names``; see `reges_index.catalog.place.CatalogPlace`.

        Raises
        ------
        StoreNotFoundError
            If there is no such store, server or catalog.
        EncoderMismatchError
            If the catalog was made with another encoder, dimension, template or space.
        CatalogError
            If the store is damaged, its first sync was interrupted, or another process keeps it to itself.
        ConfigError
            If the store is of a kind that cannot hold a catalog, or its library is not installed.
        StorageError
            If the folder cannot be written or the disk is full.
        ModelNotFoundError
            If the encoder cannot be found.
        """
        table, _ = table_in(persist_dir, place, create=create)
        return cls.over(table, create=create, **place)

    @classmethod
    def over(cls, table: Table, *, create: bool = False, **place: Unpack[CatalogPlace]) -> ItemCatalog:
        """Open the catalog of a table (`reges_index.catalog.stores`); the rest as for `open`."""
        embed_model, template = place.get("embed_model"), place.get("template") or DEFAULT_TEMPLATE
        if embed_model is None or embed_model == "embedded":
            embed_model = default_encoder_of(table)
        identity = encoder_identity(embed_model, template)
        names = FieldNames.of(place.get("field_names"), place.get("title_key"))
        return cls(table, identity, embed_model, template, names, create=create)

    @classmethod
    def from_vector_store(
        cls, vector_store: BasePydanticVectorStore, /, **place: Unpack[CatalogPlace]
    ) -> ItemCatalog:
        """Open the catalog that a LlamaIndex vector store holds; options and errors are those of `open`.

        A store that LlamaIndex itself has filled is read, not written to: its nodes are taken for items, and
        the chunks of a document for one item. Fields are found by their usual names; `title_key` and
        `field_names` say where they are called otherwise.
        """
        place["vector_store"] = vector_store
        return cls.open(**place)

    @classmethod
    def from_items(
        cls,
        items: Iterable[Item],
        *,
        persist_dir: str | Path | None = None,
        show_progress: bool = False,
        **place: Unpack[CatalogPlace],
    ) -> ItemCatalog:
        """Return a catalog of exactly these items: in memory, or in the named store.

        A catalog that is there already is synced. Parameters and errors are those of `open` and `sync`.
        """
        checked = unique_items(items)
        catalog = cls.open(persist_dir, create=True, **place)
        catalog.sync(checked, show_progress=show_progress)
        return catalog

    @staticmethod
    def names(
        persist_dir: str | Path | None = None, *, url: str | None = None, versions: bool = False
    ) -> list[str]:
        """Return the names of the catalogs in a store, sorted.

        A live catalog of a folder is listed once, under the name to open it by, and not by its versions.

        Parameters
        ----------
        versions
            List what the store holds as it is, each version of a live catalog (``films.v2``) by itself. On a
            server that is always so: nothing there says what is live. `LiveCatalog.versions` tells more.

        Raises
        ------
        StoreNotFoundError
            If there is no such store or server.
        CatalogError
            If the file that says which version is live is damaged.
        """
        location = StoreLocation.of(persist_dir, url)
        held = table_at(location, "items", create=False).names()
        if versions or location.persist_dir is None:
            return held
        return listed_once(held, live_catalogs(location.persist_dir))

    @property
    def table(self) -> AnyTable:
        """The table that holds the items."""
        return self._table

    @property
    def current(self) -> ItemCatalog:
        """The catalog itself; of a live one this is the version that is live."""
        return self

    def pinned(self) -> AbstractContextManager[ItemCatalog]:
        """Return a block that does nothing; of a `LiveCatalog` it keeps to one version."""
        return nullcontext(self)

    def beside(self, name: str, *, create: bool = True) -> ItemCatalog:
        """Return another catalog of the same store and encoder; errors as for `open`.

        Parameters
        ----------
        create
            Make it, empty, if it is not there.
        """
        table = self._table.sibling(check_name(name))
        return ItemCatalog(
            table, self.encoder, self._embed_model, self.template, self._field_names, create=create
        )

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
        return self._write(items, batch_size, show_progress, remove_others=True, source=source)

    def add(
        self, items: Iterable[Item], *, show_progress: bool = False, batch_size: int = _SYNC_BATCH
    ) -> SyncReport:
        """Add items, or replace those that have changed, and leave all others; else as `sync`."""
        return self._write(items, batch_size, show_progress, remove_others=False)

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
            if gone and len(gone) >= writer.count():
                raise InputError("no item would be left", hint="a catalog needs at least one item")
            writer.delete(gone)
            writer.finish()
        return len(gone)

    def drop(self) -> None:
        """Delete the catalog from its store, for good.

        Raises
        ------
        CatalogError
            If it was made elsewhere.
        """
        self.table.drop()

    def _write(
        self,
        items: Iterable[Item],
        batch_size: int,
        show_progress: bool,
        *,
        remove_others: bool,
        source: CatalogReader | None = None,
    ) -> SyncReport:
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}", hint="write at least one item at a time")
        # Here, because it takes time to load and only writing shows a bar.
        from rich.console import Console
        from rich.progress import track

        if source is not None:
            source.encoder.check(self.encoder, source.table.label)
        wanted = {item.id: item for item in unique_items(items)}
        batch_size = min(batch_size, self.table.batch_size)
        started = time.perf_counter()
        with self._writing() as table:
            stored = table.marks()
            todo = [item for item in wanted.values() if stored.get(item.id) != item.content_hash]
            added = sum(item.id not in stored for item in todo)
            gone = [item_id for item_id in stored if item_id not in wanted] if remove_others else []
            known = source.table.marks() if source is not None and todo else {}
            # Texts of like length together, so that little is spent on padding. The longest first: what does
            # not fit into memory fails at once, not at the end.
            rows = sorted(
                (item_row(item, self.template) for item in todo), key=lambda row: -len(row.document)
            )
            starts = track(
                range(0, len(rows), batch_size),
                "Embedding items",
                console=Console(stderr=True),
                disable=not (show_progress and todo),
            )
            for start in starts:
                batch = rows[start : start + batch_size]
                ready = [row.id for row in batch if known.get(row.id) == row.metadata[HASH_KEY]]
                table.write(batch, self._vectors_of(batch, ready, source))
            table.delete(gone)
            expected = len(wanted) if remove_others else len(stored) + added
            if (count := table.count()) != expected:
                raise CatalogError(
                    f"{table.label} holds {count} items after a write that should have left {expected}",
                    hint="another program writes to it at the same time; let one finish, then sync again",
                )
            table.finish()
        seconds = time.perf_counter() - started
        report = SyncReport(added, len(todo) - added, len(gone), len(wanted) - len(todo), seconds)
        logger.info("synced %s: %s", table.name, report)
        return report

    def _vectors_of(
        self, rows: Sequence[Row], ready: Sequence[str], source: CatalogReader | None
    ) -> list[list[float]]:
        """Take the vectors that are ready from the source, and embed the texts of the other rows."""
        found: dict[str, list[float]] = {}
        if source is not None:
            for row in source.table.rows(ready, with_vectors=True):
                if row.vector is not None:
                    found[row.id] = row.vector.tolist()
        if rest := [row for row in rows if row.id not in found]:
            embedded = self.embed_model.get_text_embedding_batch([row.document for row in rest])
            found.update(zip((row.id for row in rest), embedded, strict=True))
        return [found[row.id] for row in rows]

    @contextmanager
    def _writing(self) -> Iterator[Table]:
        with self.table.writing() as writer:
            record = writer.record()
            if record.identity is not None:  # made anew meanwhile, perhaps
                record.identity.check(self.encoder, writer.label)
            if record.broken:
                logger.warning(
                    "%s: a write was killed while its vector index was saved; all items are embedded again",
                    writer.label,
                )
                writer.recreate(self.encoder)
            try:
                yield writer
            finally:
                self.changes += 1  # also where it failed half-way
