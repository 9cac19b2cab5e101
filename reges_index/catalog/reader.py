"""What can be asked of a catalog, whichever store it is in, and whoever has filled it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from llama_index.core import VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import MetadataFilters

from reges_index.catalog.encoder import EncoderIdentity, embed_queries, resolve_encoder
from reges_index.catalog.item import Item, TextTemplate
from reges_index.catalog.stores.base import AnyTable, Hit, filter_of, item_of, row_node
from reges_index.catalog.vector_store import CatalogVectorStore
from reges_index.dialogue import TitleIndex
from reges_index.errors import CatalogError, InputError

logger = logging.getLogger(__name__)

_SHOWN_IDS = 10


class Contents(NamedTuple):
    """A whole catalog in memory, of one moment.

    Parameters
    ----------
    items
        N items, in the order of their ids.
    vectors
        Shape (N, dimension), as the encoder made them.
    """

    items: tuple[Item, ...]
    vectors: npt.NDArray[np.float32]


class CatalogReader(ABC):
    """Reading of items: by id, by query, by filter, or all of them.

    Every call reads one table from beginning to end, also where the class behind it swaps tables.

    Attributes
    ----------
    encoder
        What the vectors were made with (of a catalog made elsewhere: what it is opened with).
    template
        Of the embedded text.
    """

    def __init__(
        self, encoder: EncoderIdentity, embed_model: BaseEmbedding | str | None, template: TextTemplate
    ) -> None:
        self.encoder = encoder
        self.template = template
        self._embed_model = embed_model

    @property
    @abstractmethod
    def table(self) -> AnyTable:
        """The table to read, in whatever store it is."""

    @contextmanager
    def lent(self) -> Iterator[AnyTable]:
        """Lend the table for one call; it stays what it is until the call ends."""
        yield self.table

    @abstractmethod
    def titles(self) -> TitleIndex:
        """Return the index of the items' titles."""

    @cached_property
    def embed_model(self) -> BaseEmbedding:
        """The encoder, loaded on first use."""
        return resolve_encoder(self._embed_model)

    @property
    def name(self) -> str:
        """Name of the catalog in its store."""
        return self.table.name

    def ids(self, filters: MetadataFilters | None = None) -> list[str]:
        """Ids of all items, or of those that pass the filters, sorted.

        Raises
        ------
        InputError
            If a filter names a field that no item has; the message says which there are.
        """
        with self.lent() as table:
            return sorted(table.ids(filter_of(table, filters)))

    def items(self) -> Iterator[Item]:
        """Iterate over all items in the order of `ids`."""
        with self.lent() as table:
            yield from map(item_of, table.rows(sorted(table.ids())))

    def get(self, ids: Sequence[str]) -> list[Item]:
        """Return items by id, in the order asked for.

        Raises
        ------
        CatalogError
            If an id is not in the catalog; the message names it.
        """
        if isinstance(ids, str):
            raise InputError(f"ids is the text {ids!r}", hint="pass a list of ids")
        distinct = list(dict.fromkeys(ids))
        with self.lent() as table:
            found = {row.id: item_of(row) for row in table.rows(distinct)}
        if missing := [item_id for item_id in distinct if item_id not in found]:
            shown = ", ".join(map(repr, missing[:_SHOWN_IDS]))
            more = f" and {len(missing) - _SHOWN_IDS} more" if len(missing) > _SHOWN_IDS else ""
            raise CatalogError(f"{table.label} has no item {shown}{more}", hint="ids() lists what it holds")
        return [found[item_id] for item_id in ids]

    def held(self, ids: Sequence[str]) -> set[str]:
        """Return which of the ids are in the catalog now."""
        with self.lent() as table:
            return {row.id for row in table.rows(list(dict.fromkeys(ids)))}

    def contents(self) -> Contents:
        """Return all items with their vectors; about 4 bytes for each number of a vector, and the texts.

        Where an item has several chunks, its vector is their mean.
        """
        with self.lent() as table:
            rows = list(table.rows(sorted(table.ids()), with_vectors=True))
        vectors = np.array([row.vector for row in rows], dtype=np.float32)
        return Contents(tuple(map(item_of, rows)), vectors.reshape(len(rows), self.encoder.dimension))

    def fingerprint(self) -> str:
        """Return a hash (SHA-256, hex) of the content: equal for equal items, in any store.

        Takes the hashes that are kept with the items, so it is cheap beside reading them.
        """
        with self.lent() as table:
            marks = table.marks()
        digest = hashlib.sha256()
        for item_id, mark in sorted(marks.items()):
            digest.update(f"{item_id}\0{mark}\0".encode(errors="surrogatepass"))
        return digest.hexdigest()

    def __len__(self) -> int:
        with self.lent() as table:
            return table.count()

    def __contains__(self, item_id: object) -> bool:
        return isinstance(item_id, str) and bool(self.held([item_id]))

    def __repr__(self) -> str:
        table = self.table
        return f"{type(self).__name__}({table.name!r}, {table.place}, encoder={self.encoder.name!r})"

    def query(
        self,
        query: str | Sequence[float],
        top_k: int = 50,
        *,
        filters: MetadataFilters | None = None,
    ) -> list[NodeWithScore]:
        """Return the nearest items of one query as nodes.

        Parameters
        ----------
        query
            A text, or a vector of the encoder's dimension.
        top_k
            How many; more than there are returns all.
        filters
            Restrictions on metadata; see `reges_index.catalog.filters`.

        Returns
        -------
        list of NodeWithScore
            Best first; scores are cosines.
        """
        [vector] = self._vectors([query] if isinstance(query, str) else [list(query)])
        with self.lent() as table:
            [hits] = table.search([vector], top_k, where=filter_of(table, filters))
        return _nodes(hits)

    def query_hybrid(
        self, text: str, top_k: int = 50, *, filters: MetadataFilters | None = None
    ) -> list[NodeWithScore]:
        """Return the items that fit a text by its words and by its vector together.

        Returns
        -------
        list of NodeWithScore
            Best first; scores are the store's own (LanceDB: reciprocal ranks), not cosines.

        Raises
        ------
        InputError
            If the text is empty or the store has no such search.
        """
        [vector] = self._vectors([text])
        with self.lent() as table:
            return _nodes(table.search_hybrid(text, vector, top_k, where=filter_of(table, filters)))

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
        with self.lent() as table:
            found = table.search(vectors, top_k, where=filter_of(table, filters), with_rows=False)
        return [[(hit.row.id, hit.score) for hit in hits] for hits in found]

    def as_index(self) -> VectorStoreIndex:
        """Return the catalog, as it is now, as an ordinary LlamaIndex index."""
        return VectorStoreIndex.from_vector_store(
            CatalogVectorStore(self.table), embed_model=self.embed_model
        )

    def as_retriever(
        self, similarity_top_k: int = 50, filters: MetadataFilters | None = None, *, hybrid: bool = False
    ) -> CatalogRetriever:
        """Return an ordinary LlamaIndex retriever; 50 candidates as in the paper's experiments.

        With `hybrid` it searches by words and vector (`query_hybrid`), where the store can.
        """
        return CatalogRetriever(self, similarity_top_k, filters, hybrid=hybrid)

    def _vectors(self, queries: Sequence[str | Sequence[float]]) -> list[list[float]]:
        texts = [query for query in queries if isinstance(query, str)]
        if any(not text.strip() for text in texts):
            raise InputError("a query is empty", hint="pass a text or an embedding")
        embedded = iter(embed_queries(self.embed_model, texts) if texts else [])
        vectors = [next(embedded) if isinstance(query, str) else list(query) for query in queries]
        for vector in vectors:
            if len(vector) != self.encoder.dimension:
                raise InputError(
                    f"a query vector has {len(vector)} numbers, {self.table.label} has "
                    f"{self.encoder.dimension}",
                    hint="embed queries with the catalog's own encoder",
                )
        return vectors


def _nodes(hits: Sequence[Hit]) -> list[NodeWithScore]:
    return [NodeWithScore(node=row_node(hit.row), score=hit.score) for hit in hits]


class CatalogRetriever(BaseRetriever):
    """Retrieves items by the cosine of query and item text.

    Uses ``QueryBundle.embedding`` if there is one, else the mean over ``embedding_strs`` (that is
    ``custom_embedding_strs``, or the query itself). Async calls run in a thread and leave the loop free.

    Parameters
    ----------
    catalog
        Where to look.
    similarity_top_k
        How many items; more than there are returns all.
    filters
        Restrictions on metadata; see `reges_index.catalog.filters` for lists.
    callback_manager
        As everywhere in LlamaIndex.
    hybrid
        Search by words and vector together, where the store can (`CatalogReader.query_hybrid`). Takes the
        texts to embed as the words to look for; an embedding in the bundle is not used then.

    Raises
    ------
    InputError
        If `similarity_top_k` is below 1.
    """

    def __init__(
        self,
        catalog: CatalogReader,
        similarity_top_k: int = 50,
        filters: MetadataFilters | None = None,
        callback_manager: CallbackManager | None = None,
        *,
        hybrid: bool = False,
    ) -> None:
        if similarity_top_k < 1:
            raise InputError(f"similarity_top_k is {similarity_top_k}", hint="ask for at least one item")
        self.catalog = catalog
        self.similarity_top_k = similarity_top_k
        self.filters = filters
        self.hybrid = hybrid
        super().__init__(callback_manager=callback_manager)

    def titles(self) -> TitleIndex:
        """Return the index of the catalog's titles."""
        return self.catalog.titles()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        vector = query_bundle.embedding
        if vector is None or self.hybrid:
            texts = [text for text in query_bundle.embedding_strs if text.strip()]
            if not texts:
                raise InputError("the query is empty", hint="pass a text or an embedding")
            if self.hybrid:
                return self.catalog.query_hybrid(
                    "\n".join(texts), self.similarity_top_k, filters=self.filters
                )
            vector = self.catalog.embed_model.get_agg_embedding_from_queries(texts)
        return self.catalog.query(vector, self.similarity_top_k, filters=self.filters)

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)
