"""`ItemCatalog`: the item set I of paper section 2.2, kept in a vector store."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_index.core.base.embeddings.base import BaseEmbedding

from reges_index.catalog.encoder import EncoderIdentity, encoder_identity, resolve_encoder
from reges_index.catalog.fields import FieldNames
from reges_index.catalog.item import DEFAULT_TEMPLATE, Item, TextTemplate
from reges_index.catalog.live_state import listed_once, live_catalogs
from reges_index.catalog.place import CatalogPlace, StoreLocation, check_name
from reges_index.catalog.reader import CatalogReader
from reges_index.catalog.stores import table_at, table_of
from reges_index.catalog.stores.base import Table, Writer
from reges_index.catalog.sync import (
    SyncReport,
    default_encoder_of,
    open_table,
    sync_table,
    unique_items,
    where_of,
)
from reges_index.dialogue import TitleIndex
from reges_index.errors import CatalogError, InputError

if TYPE_CHECKING:
    from typing import Unpack

    from llama_index.core.vector_stores.types import BasePydanticVectorStore

__all__ = ["ItemCatalog", "table_in"]

logger = logging.getLogger(__name__)

_SYNC_BATCH = 256


def table_in(
    persist_dir: str | Path | None, place: CatalogPlace, *, create: bool
) -> tuple[Table, StoreLocation]:
    """Return the table that the options of `ItemCatalog.open` name, and where its store is.

    Raises
    ------
    InputError
        If no store is named, or more than one.
    """
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
    """Items in a vector store; made by `open`, `from_items` or `from_defaults`.

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
        state = self.changes, self.table.count()
        if self._titles is None or self._titles[0] != state:
            self._titles = state, TitleIndex.of(self.items())
        return self._titles[1]

    def __init__(
        self,
        table: Table,
        *,
        identity: EncoderIdentity,
        embed_model: BaseEmbedding | str | None,
        template: TextTemplate,
        is_read_only: bool,
        field_names: FieldNames | None = None,
    ) -> None:
        self._table = table
        self._identity = identity
        self._embed_model = embed_model
        self._template = template
        self._is_read_only = is_read_only
        self._field_names = field_names or FieldNames()
        self._notes: Counter[str] = Counter()

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
        _known(place)
        table, _ = table_in(persist_dir, place, create=create)
        return cls.over(table, create=create, **place)

    @classmethod
    def over(cls, table: Table, *, create: bool = False, **place: Unpack[CatalogPlace]) -> ItemCatalog:
        """Open the catalog of a table (`reges_index.catalog.stores`); the rest as for `open`."""
        embed_model, template = place.get("embed_model"), place.get("template") or DEFAULT_TEMPLATE
        if embed_model is None or embed_model == "embedded":
            embed_model = default_encoder_of(table)
        identity = encoder_identity(embed_model, template)
        is_foreign = open_table(table, identity, create=create)
        return cls(
            table,
            identity=identity,
            embed_model=embed_model,
            template=template,
            is_read_only=is_foreign,
            field_names=FieldNames.of(place.get("field_names"), place.get("title_key")),
        )

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

    @classmethod
    def from_defaults(
        cls,
        items: Iterable[Item] | None = None,
        *,
        persist_dir: str | Path | None = None,
        show_progress: bool = False,
        **place: Unpack[CatalogPlace],
    ) -> ItemCatalog:
        """Return `from_items` if there are items, else `open`."""
        if items is None:
            return cls.open(persist_dir, **place)
        return cls.from_items(items, persist_dir=persist_dir, show_progress=show_progress, **place)

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
    def table(self) -> Table:
        """The table that holds the items."""
        return self._table

    @property
    def encoder(self) -> EncoderIdentity:
        """What the catalog's vectors were made with (of a catalog made elsewhere: what it is opened with)."""
        return self._identity

    @property
    def embed_model(self) -> BaseEmbedding:
        """The encoder, loaded on first use."""
        return resolve_encoder(self._embed_model)

    @property
    def template(self) -> TextTemplate:
        """Template of the embedded text."""
        return self._template

    @property
    def is_read_only(self) -> bool:
        """Whether it was made elsewhere, so that this package does not write to it."""
        return self._is_read_only

    @property
    def field_names(self) -> FieldNames:
        """Which metadata keys of a catalog made elsewhere hold which fields."""
        return self._field_names

    @property
    def notes(self) -> Counter[str]:
        """What was left out or guessed in a catalog made elsewhere, by what it was, with how often."""
        return self._notes

    def beside(self, name: str, *, create: bool = True) -> ItemCatalog:
        """Return another catalog of the same store and encoder; errors as for `open`.

        Parameters
        ----------
        create
            Make it, empty, if it is not there.
        """
        table = self._table.sibling(check_name(name))
        is_foreign = open_table(table, self._identity, create=create)
        return ItemCatalog(
            table,
            identity=self._identity,
            embed_model=self._embed_model,
            template=self._template,
            is_read_only=is_foreign,
            field_names=self._field_names,
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


def _known(place: Mapping[str, Any]) -> None:
    if unknown := sorted(place.keys() - CatalogPlace.__annotations__.keys()):
        known = ", ".join(CatalogPlace.__annotations__)
        raise TypeError(f"unknown option {unknown[0]!r} of a catalog; there are persist_dir, {known}")
