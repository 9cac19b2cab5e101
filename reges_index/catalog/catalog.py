"""`ItemCatalog`: the item set I of paper section 2.2, kept in a vector store."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from reges_index.catalog.encoder import EncoderIdentity, encoder_identity, resolve_encoder
from reges_index.catalog.item import DEFAULT_TEMPLATE, Item, TextTemplate
from reges_index.catalog.live_state import listed_once, live_catalogs
from reges_index.catalog.opening import open_table
from reges_index.catalog.store import StoreLocation, check_name
from reges_index.catalog.stores import Table, table_at, table_of
from reges_index.catalog.sync import unique_items
from reges_index.catalog.writer import CatalogWriter
from reges_index.errors import InputError

__all__ = ["ItemCatalog"]


class ItemCatalog(CatalogWriter):
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
    """

    def __init__(
        self,
        table: Table,
        *,
        identity: EncoderIdentity,
        embed_model: BaseEmbedding | str | None,
        template: TextTemplate,
        is_read_only: bool,
    ) -> None:
        self._table = table
        self._identity = identity
        self._embed_model = embed_model
        self._template = template
        self._is_read_only = is_read_only

    @classmethod
    def open(
        cls,
        persist_dir: str | Path | None = None,
        *,
        url: str | None = None,
        vector_store: BasePydanticVectorStore | None = None,
        name: str = "items",
        embed_model: BaseEmbedding | str | None = None,
        template: TextTemplate | None = None,
        create: bool = False,
    ) -> ItemCatalog:
        """Open a catalog.

        Parameters
        ----------
        persist_dir
            Folder of an embedded store; Chroma's, or with ``qdrant:`` or ``lancedb:`` before it theirs.
        url
            Address of a Chroma server, ``http://host:port``, instead of a folder. With neither the catalog is
            in memory and `create` must be true.
        vector_store
            A ``ChromaVectorStore``, ``QdrantVectorStore`` or ``LanceDBVectorStore`` instead of both; it says
            the name too.
        name
            Of the catalog; a store may hold several.
        embed_model
            The encoder, as for `reges_index.catalog.encoder.resolve_encoder`; None is all-MiniLM-L6-v2. The
            default is loaded when first needed.
        template
            Of the embedded text; None is `DEFAULT_TEMPLATE`.
        create
            Make an empty catalog where there is none, and allow one whose first sync was interrupted.

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
        location = StoreLocation.of(persist_dir, url)
        table: Table | None = None
        if vector_store is not None:
            if persist_dir is not None or url is not None:
                raise InputError("both a vector_store and a place are given", hint="name the store once")
            table = table_of(vector_store)
        elif persist_dir is None and url is None and not create:
            raise InputError("no store is named", hint="pass persist_dir or url, or create=True for memory")
        check_name(name if table is None else table.name)
        if table is None:
            table = table_at(location, name, create=create)
        return cls.over(table, embed_model=embed_model, template=template, create=create)

    @classmethod
    def over(
        cls,
        table: Table,
        *,
        embed_model: BaseEmbedding | str | None = None,
        template: TextTemplate | None = None,
        create: bool = False,
    ) -> ItemCatalog:
        """Open the catalog of a table (`reges_index.catalog.stores`); the rest as for `open`."""
        template = template or DEFAULT_TEMPLATE
        identity = encoder_identity(embed_model, template)
        is_foreign = open_table(table, identity, create=create)
        return cls(
            table, identity=identity, embed_model=embed_model, template=template, is_read_only=is_foreign
        )

    @classmethod
    def from_vector_store(
        cls,
        vector_store: BasePydanticVectorStore,
        *,
        embed_model: BaseEmbedding | str | None = None,
        template: TextTemplate | None = None,
    ) -> ItemCatalog:
        """Open the catalog that a LlamaIndex vector store holds; parameters and errors are those of `open`.

        A store that LlamaIndex itself has filled is read, not written to: its nodes are taken for items.
        """
        return cls.open(vector_store=vector_store, embed_model=embed_model, template=template)

    @classmethod
    def from_items(
        cls,
        items: Iterable[Item],
        *,
        persist_dir: str | Path | None = None,
        url: str | None = None,
        vector_store: BasePydanticVectorStore | None = None,
        name: str = "items",
        embed_model: BaseEmbedding | str | None = None,
        template: TextTemplate | None = None,
        show_progress: bool = False,
    ) -> ItemCatalog:
        """Return a catalog of exactly these items: in memory, or in the named store.

        A catalog that is there already is synced. Parameters and errors are those of `open` and `sync`.
        """
        checked = unique_items(items)
        catalog = cls.open(
            persist_dir,
            url=url,
            vector_store=vector_store,
            name=name,
            embed_model=embed_model,
            template=template,
            create=True,
        )
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

    @classmethod
    def from_defaults(
        cls,
        items: Iterable[Item] | None = None,
        *,
        persist_dir: str | Path | None = None,
        url: str | None = None,
        vector_store: BasePydanticVectorStore | None = None,
        name: str = "items",
        embed_model: BaseEmbedding | str | None = None,
        template: TextTemplate | None = None,
        show_progress: bool = False,
    ) -> ItemCatalog:
        """Return `from_items` if there are items, else `open`."""
        if items is None:
            return cls.open(
                persist_dir,
                url=url,
                vector_store=vector_store,
                name=name,
                embed_model=embed_model,
                template=template,
            )
        return cls.from_items(
            items,
            persist_dir=persist_dir,
            url=url,
            vector_store=vector_store,
            name=name,
            embed_model=embed_model,
            template=template,
            show_progress=show_progress,
        )

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
        )
