"""`ItemCatalog`: the item set I of paper section 2.2, kept in a Chroma collection."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chromadb import Collection
from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import NodeWithScore
from llama_index.core.vector_stores.types import MetadataFilters

from reges_index.catalog import collection as collections
from reges_index.catalog.encoder import EncoderIdentity, embed_queries, encoder_identity, resolve_encoder
from reges_index.catalog.filters import to_where
from reges_index.catalog.handle import StoreHandle, Write
from reges_index.catalog.item import Item
from reges_index.catalog.nodes import LIST_FIELDS
from reges_index.catalog.retriever import CatalogRetriever
from reges_index.catalog.rows import iter_rows, row_node
from reges_index.catalog.search import Hits, search_store
from reges_index.catalog.store import StoreLocation, check_name, store_errors
from reges_index.catalog.sync import SyncReport, sync_collection, unique_items
from reges_index.catalog.template import DEFAULT_TEMPLATE, TextTemplate
from reges_index.catalog.vector_store import CatalogVectorStore
from reges_index.errors import CatalogError, EncoderMismatchError, InputError

__all__ = ["ItemCatalog"]

logger = logging.getLogger(__name__)

_SYNC_BATCH = 256
_SHOWN_IDS = 10
_warned: set[tuple[str, str]] = set()


class ItemCatalog:
    """Items in a vector store; made by `open`, `from_items` or `from_defaults`.

    Safe to use from several threads, and a folder from several processes: one writes at a time, and the
    others see it at their next call. While one writes, reading in another may fail; where that matters, share
    the catalog through a server (``chroma run``).

    Examples
    --------
    >>> from reges_index.catalog import Item, ItemCatalog
    >>> catalog = ItemCatalog.from_items([Item(id="1", title="Alien"), Item(id="2", title="Bambi")])
    >>> [hit.node.node_id for hit in catalog.as_retriever(similarity_top_k=1).retrieve("a deer in the wood")]
    ['2']
    """

    def __init__(
        self,
        store: StoreHandle,
        name: str,
        *,
        identity: EncoderIdentity,
        embed_model: BaseEmbedding | str | None,
        template: TextTemplate,
        foreign: bool,
    ) -> None:
        self._store = store
        self._name = name
        self._identity = identity
        self._embed_model = embed_model
        self._template = template
        self._foreign = foreign
        self._list_keys = frozenset() if foreign else frozenset(LIST_FIELDS)
        self._batch_size = store.batch_size

    @classmethod
    def open(
        cls,
        persist_dir: str | Path | None = None,
        *,
        url: str | None = None,
        name: str = "items",
        embed_model: BaseEmbedding | str | None = None,
        template: TextTemplate | None = None,
        create: bool = False,
    ) -> ItemCatalog:
        """Open a catalog.

        Parameters
        ----------
        persist_dir
            Folder of an embedded store.
        url
            Address of a Chroma server, ``http://host:port``, instead of a folder. With neither the catalog is
            in memory and `create` must be true.
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
            If the store is damaged or its first sync was interrupted.
        StorageError
            If the folder cannot be written or the disk is full.
        ModelNotFoundError
            If the encoder cannot be found.
        """
        location = StoreLocation.of(persist_dir, url)
        if persist_dir is None and url is None and not create:
            raise InputError("no store is named", hint="pass persist_dir or url, or create=True for memory")
        check_name(name)
        where = f"catalog {name!r} in {location}"
        template = template or DEFAULT_TEMPLATE
        identity = encoder_identity(embed_model, template)
        with store_errors(where, location.persist_dir):
            store = StoreHandle.of(location, create=create)
        if create and name not in _names(store):
            with store_errors(where, location.persist_dir), store.writing(name) as write:
                if name not in {found.name for found in write.client.list_collections()}:
                    collections.create_collection(write.client, name, identity)
        with store_errors(where), store.reading() as client:
            collection = collections.find_collection(client, name, str(location))
            recorded = collections.recorded_identity(collection, where)
            if recorded is None:
                _check_foreign(collection, identity, where)
            else:
                recorded.check(identity, where)
                if not create and not collections.is_complete(collection):
                    raise CatalogError(
                        f"{where} is half-written: its first sync stopped after {collection.count()} items",
                        hint="index the items again; what is there is kept and not embedded twice",
                    )
        if not create and store.is_broken(name):
            raise CatalogError(
                f"{where} is half-written: a sync was killed while its vector index was saved",
                hint="index the items again; the catalog is then made anew",
            )
        return cls(
            store,
            name,
            identity=identity,
            embed_model=embed_model,
            template=template,
            foreign=recorded is None,
        )

    @classmethod
    def from_items(
        cls,
        items: Iterable[Item],
        *,
        persist_dir: str | Path | None = None,
        url: str | None = None,
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
            persist_dir, url=url, name=name, embed_model=embed_model, template=template, create=True
        )
        catalog.sync(checked, show_progress=show_progress)
        return catalog

    @staticmethod
    def names(persist_dir: str | Path | None = None, *, url: str | None = None) -> list[str]:
        """Return the names of the catalogs in a store, sorted.

        Raises
        ------
        StoreNotFoundError
            If there is no such store or server.
        """
        location = StoreLocation.of(persist_dir, url)
        return _names(StoreHandle.of(location, create=False))

    @classmethod
    def from_defaults(
        cls,
        items: Iterable[Item] | None = None,
        *,
        persist_dir: str | Path | None = None,
        url: str | None = None,
        name: str = "items",
        embed_model: BaseEmbedding | str | None = None,
        template: TextTemplate | None = None,
        show_progress: bool = False,
    ) -> ItemCatalog:
        """Return `from_items` if there are items, else `open`."""
        if items is None:
            return cls.open(persist_dir, url=url, name=name, embed_model=embed_model, template=template)
        return cls.from_items(
            items,
            persist_dir=persist_dir,
            url=url,
            name=name,
            embed_model=embed_model,
            template=template,
            show_progress=show_progress,
        )

    def sync(
        self, items: Iterable[Item], *, show_progress: bool = False, batch_size: int = _SYNC_BATCH
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
            Items embedded and written in one step: the most that a kill can cost. Never more than Chroma
            takes at once.

        Raises
        ------
        InputError
            If there are no items, ids repeat, or `batch_size` is below 1.
        CatalogError
            If the catalog was made elsewhere, or another program writes to it.
        StorageError
            If the disk is full or the folder cannot be written. What was written stays.
        """
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}", hint="write at least one item at a time")
        if self._foreign:
            raise CatalogError(
                f"{self._where} was made elsewhere and is only read",
                hint="make a catalog of its items: ItemCatalog.from_items(catalog.items(), ...)",
            )
        checked = unique_items(items)
        with (
            store_errors(self._where, self._store.location.persist_dir),
            self._store.writing(self._name) as write,
        ):
            report = sync_collection(
                self._writable(write),
                checked,
                lambda: self.embed_model,
                self._template,
                batch_size=min(batch_size, self._batch_size),
                show_progress=show_progress,
                checkpoint=write.checkpoint,
            )
            collections.mark_complete(collections.find_collection(write.client, self._name, self._where))
        return report

    @property
    def name(self) -> str:
        """Name of the catalog in its store."""
        return self._name

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

    def ids(self) -> list[str]:
        """Ids of all items, sorted."""
        with self._reading() as collection:
            return sorted(collection.get(include=[])["ids"])

    def items(self) -> Iterator[Item]:
        """Iterate over all items in the order of `ids`."""
        ids = self.ids()
        for start in range(0, len(ids), self._batch_size):
            yield from self.get(ids[start : start + self._batch_size])

    def get(self, ids: Sequence[str]) -> list[Item]:
        """Return items by id, in the order asked for.

        Raises
        ------
        CatalogError
            If an id is not in the catalog; the message names it.
        """
        if isinstance(ids, str):
            raise InputError(f"ids is the text {ids!r}", hint="pass a list of ids")
        found: dict[str, Item] = {}
        with self._reading() as collection:
            include = ["documents", "metadatas"]
            for rows in iter_rows(collection, list(dict.fromkeys(ids)), include, self._batch_size):
                for row in zip(rows["ids"], rows["documents"], rows["metadatas"], strict=True):
                    found[row[0]] = Item.from_node(row_node(*row))
        if missing := [item_id for item_id in dict.fromkeys(ids) if item_id not in found]:
            shown = ", ".join(map(repr, missing[:_SHOWN_IDS]))
            more = f" and {len(missing) - _SHOWN_IDS} more" if len(missing) > _SHOWN_IDS else ""
            raise CatalogError(f"{self._where} has no item {shown}{more}", hint="ids() lists what it holds")
        return [found[item_id] for item_id in ids]

    def __len__(self) -> int:
        with self._reading() as collection:
            return int(collection.count())

    def __contains__(self, item_id: object) -> bool:
        with self._reading() as collection:
            return isinstance(item_id, str) and bool(collection.get(ids=[item_id], include=[])["ids"])

    def __repr__(self) -> str:
        return f"ItemCatalog({self.name!r}, {self._store.location}, encoder={self._identity.name!r})"

    def query(
        self, query: str | Sequence[float], top_k: int = 50, *, filters: MetadataFilters | None = None
    ) -> list[NodeWithScore]:
        """Return the nearest items of one query as nodes.

        Parameters
        ----------
        query
            A text, or a vector of the encoder's dimension.
        top_k
            How many; more than there are returns all.
        filters
            Restrictions on metadata.

        Returns
        -------
        list of NodeWithScore
            Best first; scores are cosines.
        """
        [vector] = self._vectors([query] if isinstance(query, str) else [list(query)])
        [hits] = self._search([vector], top_k, filters)
        nodes = map(row_node, hits.ids, hits.documents, hits.metadatas)
        return [NodeWithScore(node=node, score=score) for node, score in zip(nodes, hits.scores, strict=True)]

    def retrieve_batch(
        self,
        queries: Sequence[str | Sequence[float]],
        top_k: int = 50,
        *,
        filters: MetadataFilters | None = None,
    ) -> list[list[tuple[str, float]]]:
        """Return ids and cosine scores for many queries, embedded in batches.

        For evaluation and for mining negatives, where nodes would only cost time.

        Parameters
        ----------
        queries
            Texts, or vectors of the encoder's dimension.
        top_k, filters
            As in `query`.

        Returns
        -------
        list of list of (id, score)
            One list for each query, best first.
        """
        vectors = self._vectors(queries)
        found = self._search(vectors, top_k, filters, with_rows=False)
        return [list(zip(hits.ids, hits.scores, strict=True)) for hits in found]

    def as_index(self) -> VectorStoreIndex:
        """Return the catalog as an ordinary LlamaIndex index."""
        store = CatalogVectorStore(
            self._store,
            self._name,
            list_keys=self._list_keys,
            read_only=self._foreign,
        )
        return VectorStoreIndex.from_vector_store(store, embed_model=self.embed_model)

    def as_retriever(
        self, similarity_top_k: int = 50, filters: MetadataFilters | None = None
    ) -> CatalogRetriever:
        """Return an ordinary LlamaIndex retriever; 50 candidates as in the paper's experiments."""
        return CatalogRetriever(self, similarity_top_k, filters)

    @property
    def _where(self) -> str:
        return f"catalog {self.name!r} in {self._store.location}"

    @contextmanager
    def _reading(self) -> Iterator[Collection]:
        with store_errors(self._where), self._store.reading() as client:
            yield client.get_collection(self._name, embedding_function=None)

    def _writable(self, write: Write) -> Collection:
        collection = collections.find_collection(write.client, self._name, self._where)
        recorded = collections.recorded_identity(collection, self._where)
        if recorded is not None:  # made anew by another process since this catalog was opened
            recorded.check(self._identity, self._where)
        if not write.broken:
            return collection
        logger.warning(
            "%s: a write was killed while its vector index was saved; all items are embedded again",
            self._where,
        )
        write.client.delete_collection(self._name)
        return collections.create_collection(write.client, self._name, self._identity)

    def _search(
        self,
        vectors: list[list[float]],
        top_k: int,
        filters: MetadataFilters | None,
        *,
        with_rows: bool = True,
    ) -> list[Hits]:
        return search_store(
            self._store,
            self._name,
            vectors,
            top_k,
            where=to_where(filters, self._list_keys),
            with_rows=with_rows,
        )

    def _vectors(self, queries: Sequence[str | Sequence[float]]) -> list[list[float]]:
        texts = [query for query in queries if isinstance(query, str)]
        if any(not text.strip() for text in texts):
            raise InputError("a query is empty", hint="pass a text or an embedding")
        embedded = iter(embed_queries(self.embed_model, texts) if texts else [])
        vectors = [next(embedded) if isinstance(query, str) else list(query) for query in queries]
        for vector in vectors:
            if len(vector) != self._identity.dimension:
                raise InputError(
                    f"a query vector has {len(vector)} numbers, {self._where} has {self._identity.dimension}",
                    hint="embed queries with the catalog's own encoder",
                )
        return vectors


def _names(store: StoreHandle) -> list[str]:
    with store_errors(str(store.location)), store.reading() as client:
        return sorted(found.name for found in client.list_collections())


def _check_foreign(collection: Collection, identity: EncoderIdentity, where: str) -> None:
    """Check what can be checked of a collection that does not record its encoder; warn once."""
    dimension = collections.stored_dimension(collection)
    if dimension is not None and dimension != identity.dimension:
        raise EncoderMismatchError(
            f"{where} holds vectors of dimension {dimension}; {identity.name!r} makes {identity.dimension}",
            hint="pass the embed_model that the collection was made with",
        )
    key: tuple[Any, ...] = (where, identity.name)
    if key not in _warned:
        _warned.add(key)
        logger.warning(
            "%s was made elsewhere and does not say with which encoder; %s is assumed", where, identity.name
        )
