"""What can be asked of a catalog, whichever store it is in."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import NodeWithScore
from llama_index.core.vector_stores.types import MetadataFilters

from reges_index.catalog.encoder import EncoderIdentity, embed_queries
from reges_index.catalog.filters import parse_filters
from reges_index.catalog.item import Item, TextTemplate
from reges_index.catalog.retriever import CatalogRetriever
from reges_index.catalog.rows import row_node
from reges_index.catalog.stores.base import Hits, Stored, Table, hybrid_search
from reges_index.catalog.vector_store import CatalogVectorStore
from reges_index.errors import CatalogError, InputError

__all__ = ["CatalogReader", "Contents", "where_of"]

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
    """

    @property
    @abstractmethod
    def table(self) -> Table:
        """The table to read, in whatever store it is."""

    @contextmanager
    def lent(self) -> Iterator[Table]:
        """Lend the table for one call; it stays what it is until the call ends."""
        yield self.table

    @property
    @abstractmethod
    def encoder(self) -> EncoderIdentity:
        """What the vectors were made with (of a catalog made elsewhere: what it is opened with)."""

    @property
    @abstractmethod
    def embed_model(self) -> BaseEmbedding:
        """The encoder, loaded on first use."""

    @property
    @abstractmethod
    def template(self) -> TextTemplate:
        """Template of the embedded text."""

    @property
    @abstractmethod
    def is_read_only(self) -> bool:
        """Whether it was made elsewhere, so that this package does not write to it."""

    @property
    def name(self) -> str:
        """Name of the catalog in its store."""
        return self.table.name

    def ids(self, filters: MetadataFilters | None = None) -> list[str]:
        """Ids of all items, or of those that pass the filters, sorted."""
        with self.lent() as table:
            return sorted(table.ids(parse_filters(filters)))

    def items(self) -> Iterator[Item]:
        """Iterate over all items in the order of `ids`."""
        with self.lent() as table:
            ids = sorted(table.ids())
            for start in range(0, len(ids), table.batch_size):
                part = ids[start : start + table.batch_size]
                found = {row.id: _item(row) for row in table.rows(part)}
                # One that was removed meanwhile is no item any more.
                yield from (found[item_id] for item_id in part if item_id in found)

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
            found = {row.id: _item(row) for row in table.rows(distinct)}
        if missing := [item_id for item_id in distinct if item_id not in found]:
            shown = ", ".join(map(repr, missing[:_SHOWN_IDS]))
            more = f" and {len(missing) - _SHOWN_IDS} more" if len(missing) > _SHOWN_IDS else ""
            raise CatalogError(
                f"{where_of(table)} has no item {shown}{more}", hint="ids() lists what it holds"
            )
        return [found[item_id] for item_id in ids]

    def held(self, ids: Sequence[str]) -> set[str]:
        """Return which of the ids are in the catalog now."""
        with self.lent() as table:
            return {row.id for row in table.rows(list(dict.fromkeys(ids)))}

    def contents(self) -> Contents:
        """Return all items with their vectors; about 4 bytes for each number of a vector, and the texts."""
        with self.lent() as table:
            rows = sorted(table.rows(table.ids(), with_vectors=True), key=lambda row: row.id)
        vectors = np.zeros((len(rows), self.encoder.dimension), dtype=np.float32)
        for number, row in enumerate(rows):
            assert row.vector is not None  # asked for above
            vectors[number] = row.vector
        return Contents(tuple(map(_item, rows)), vectors)

    def fingerprint(self) -> str:
        """Return a hash (SHA-256, hex) of the content: equal for equal items, in any store.

        Takes the hashes that are kept with the items, so it is cheap beside reading them.
        """
        digest = hashlib.sha256()
        with self.lent() as table:
            marks = table.marks()
        for item_id, mark in sorted(marks.items()):
            digest.update(f"{item_id}\0{mark}\0".encode(errors="surrogatepass"))
        return digest.hexdigest()

    def __len__(self) -> int:
        with self.lent() as table:
            return table.count()

    def __contains__(self, item_id: object) -> bool:
        if not isinstance(item_id, str):
            return False
        with self.lent() as table:
            return any(True for _ in table.rows([item_id]))

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
            [hits] = table.search([vector], top_k, where=parse_filters(filters))
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
            return _nodes(hybrid_search(table, text, vector, top_k, where=parse_filters(filters)))

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
            found = table.search(vectors, top_k, where=parse_filters(filters), with_rows=False)
        return [list(zip(hits.ids, hits.scores, strict=True)) for hits in found]

    def as_index(self) -> VectorStoreIndex:
        """Return the catalog, as it is now, as an ordinary LlamaIndex index."""
        store = CatalogVectorStore(self.table, read_only=self.is_read_only)
        return VectorStoreIndex.from_vector_store(store, embed_model=self.embed_model)

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
                    f"a query vector has {len(vector)} numbers, {where_of(self.table)} has "
                    f"{self.encoder.dimension}",
                    hint="embed queries with the catalog's own encoder",
                )
        return vectors


def where_of(table: Table) -> str:
    """Return how messages name a table."""
    return f"catalog {table.name!r} in {table.place}"


def _item(row: Stored) -> Item:
    return Item.from_node(row_node(row.id, row.document, row.metadata))


def _nodes(hits: Hits) -> list[NodeWithScore]:
    nodes = (row_node(row.id, row.document, row.metadata) for row in hits.rows)
    return [NodeWithScore(node=node, score=score) for node, score in zip(nodes, hits.scores, strict=True)]
