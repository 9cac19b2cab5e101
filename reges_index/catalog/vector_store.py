"""`CatalogVectorStore`: a catalog as a LlamaIndex vector store, whatever store it is kept in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.indices.query.embedding_utils import get_top_k_mmr_embeddings
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)

from reges_index.catalog.filters import Check, Filter
from reges_index.catalog.stores.base import Hits, Stored, Table, Writer, hybrid_search, node_row, row_node
from reges_index.errors import CatalogError, InputError

__all__ = ["CatalogVectorStore"]

_MMR_PREFETCH = 4.0

_Limits: TypeAlias = Callable[[Table, MetadataFilters | None], tuple[Filter | None, list[str] | None]]


class CatalogVectorStore(BasePydanticVectorStore):
    """The same behaviour over every store: scores are cosines, writes replace, filters know lists.

    LlamaIndex's own stores differ in all three: one scores ``exp(-distance)`` and keeps the old row when an
    id is added again, another takes ids only if they are UUIDs, a third has the metadata keys of its first
    rows only.

    Parameters
    ----------
    table
        The catalog's table.
    read_only
        Refuse to write, for tables that were made elsewhere.
    limits
        Turns filters into what a search of the table's rows has to obey (`CatalogReader.row_limits`).
    """

    stores_text: bool = True
    flat_metadata: bool = False
    is_embedding_query: bool = True

    _table: Table = PrivateAttr()
    _read_only: bool = PrivateAttr()
    _limits: _Limits = PrivateAttr()

    def __init__(self, table: Table, *, limits: _Limits, read_only: bool = False) -> None:
        super().__init__(stores_text=True)
        self._table = table
        self._read_only = read_only
        self._limits = limits

    @classmethod
    def class_name(cls) -> str:
        """Name for LlamaIndex's serialization."""
        return "ReGeSCatalogVectorStore"

    @property
    def client(self) -> Table:
        """The catalog's table."""
        return self._table

    @property
    def table(self) -> Table:
        """The catalog's table."""
        return self._table

    def add(self, nodes: Sequence[BaseNode], **_kwargs: Any) -> list[str]:
        """Write nodes that have embeddings, replacing rows of the same ids.

        A later ``ItemCatalog.sync`` removes what is not among its items.

        Raises
        ------
        CatalogError
            If the table was made elsewhere.
        """
        latest = {node.node_id: node for node in nodes}
        rows = [node_row(node) for node in latest.values()]
        vectors = [node.get_embedding() for node in latest.values()]
        size = self._table.batch_size
        with self._writing() as writer:
            for start in range(0, len(rows), size):
                writer.write(rows[start : start + size], vectors[start : start + size])
        return [node.node_id for node in nodes]

    def delete(self, ref_doc_id: str, **_kwargs: Any) -> None:
        """Delete the nodes of a LlamaIndex document (items have none; see `delete_nodes`)."""
        self.delete_nodes(self._table.ids(Check("document_id", "==", ref_doc_id)))

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **_kwargs: Any
    ) -> None:
        """Delete nodes by id, by filter, or by both at once."""
        if not node_ids and filters is None:
            return
        with self._writing() as writer:
            found = self._ids(node_ids or None, filters)
            size = self._table.batch_size
            for start in range(0, len(found), size):
                writer.delete(found[start : start + size])

    def clear(self) -> None:
        """Delete all nodes."""
        self.delete_nodes(self._table.ids())

    def get_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
    ) -> list[BaseNode]:
        """Return nodes by id, by filter, or all of them, in the store's order."""
        found = self._ids(node_ids or None, filters)
        return [_node(row) for row in self._table.rows(found)]

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Find nodes; modes DEFAULT, MMR and, where the store has it, HYBRID.

        Raises
        ------
        InputError
            If there is no embedding to search with, or the mode is another.
        """
        if not query.query_embedding:
            raise InputError("the query is empty", hint="pass a query text or an embedding")
        where, among = self._limits(self._table, query.filters)
        if query.mode is VectorStoreQueryMode.MMR:
            return self._diverse(query, where, among, **kwargs)
        if query.mode is VectorStoreQueryMode.HYBRID:
            if not (query.query_str or "").strip():
                raise InputError("a hybrid query has no text", hint="pass a query text with the embedding")
            text = query.query_str or ""
            wanted = query.similarity_top_k if among is None else max(1, self._table.count())
            hits = hybrid_search(self._table, text, query.query_embedding, wanted, where=where)
            if among is not None:
                passing = [n for n, row_id in enumerate(hits.ids) if row_id in set(among)]
                kept = passing[: query.similarity_top_k]
                ids, scores, rows = hits
                hits = Hits([ids[n] for n in kept], [scores[n] for n in kept], [rows[n] for n in kept])
        elif query.mode is VectorStoreQueryMode.DEFAULT:
            wanted = query.similarity_top_k
            [hits] = self._table.search([query.query_embedding], wanted, where=where, among=among)
        else:
            raise InputError(
                f"query mode {query.mode.value!r} is not supported", hint="use 'default', 'mmr' or 'hybrid'"
            )
        nodes = list(map(_node, hits.rows))
        return VectorStoreQueryResult(nodes=nodes, similarities=hits.scores, ids=hits.ids)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Do `query` in a thread, which leaves the event loop free."""
        return await asyncio.to_thread(self.query, query, **kwargs)

    def _diverse(
        self,
        query: VectorStoreQuery,
        where: Filter | None,
        among: list[str] | None,
        *,
        mmr_threshold: float | None = None,
        mmr_prefetch_factor: float = _MMR_PREFETCH,
        **_kwargs: Any,
    ) -> VectorStoreQueryResult:
        assert query.query_embedding is not None  # checked by `query`
        wanted = max(query.similarity_top_k, int(query.similarity_top_k * mmr_prefetch_factor))
        [hits] = self._table.search(
            [query.query_embedding], wanted, where=where, among=among, with_vectors=True
        )
        if not hits.rows:
            return VectorStoreQueryResult(nodes=[], similarities=[], ids=[])
        _, chosen = get_top_k_mmr_embeddings(
            query.query_embedding,
            np.stack([row.vector for row in hits.rows if row.vector is not None]).tolist(),
            similarity_top_k=query.similarity_top_k,
            embedding_ids=list(range(len(hits.ids))),
            mmr_threshold=mmr_threshold,
        )
        return VectorStoreQueryResult(
            nodes=[_node(hits.rows[i]) for i in chosen],
            similarities=[hits.scores[i] for i in chosen],
            ids=[hits.ids[i] for i in chosen],
        )

    def _ids(self, node_ids: list[str] | None, filters: MetadataFilters | None) -> list[str]:
        where, among = self._limits(self._table, filters)
        if node_ids is None or where is not None or among is not None:
            found = self._table.ids(where) if among is None else among
            return found if node_ids is None else sorted(set(found) & set(node_ids))
        return [row.id for row in self._table.rows(node_ids)]

    @contextmanager
    def _writing(self) -> Iterator[Writer]:
        where = f"catalog {self._table.name!r} in {self._table.place}"
        if self._read_only:
            raise CatalogError(
                f"{where} was made elsewhere and is only read",
                hint="make a catalog of your own with ItemCatalog.from_items",
            )
        with self._table.writing() as writer:
            if writer.broken:
                raise CatalogError(
                    f"{where} was killed while its vector index was written",
                    hint="sync its items again, which makes it anew",
                )
            yield writer


def _node(row: Stored) -> BaseNode:
    return row_node(row.id, row.document, row.metadata)
