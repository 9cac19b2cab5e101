"""`CatalogVectorStore`: a catalog as a LlamaIndex vector store, whatever store it is kept in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

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
from reges_index.catalog.stores.base import AnyTable, Hit, Table, filter_of, node_row, row_node
from reges_index.errors import CatalogError, InputError

_MMR_PREFETCH = 4.0


class CatalogVectorStore(BasePydanticVectorStore):
    """The same behaviour over every store: scores are cosines, writes replace, filters know lists.

    LlamaIndex's own stores differ in all three: one scores ``exp(-distance)`` and keeps the old row when an
    id is added again, another takes ids only if they are UUIDs, a third has the metadata keys of its first
    rows only.

    Parameters
    ----------
    table
        The catalog's table.
    """

    stores_text: bool = True
    flat_metadata: bool = False
    is_embedding_query: bool = True

    _table: AnyTable = PrivateAttr()

    def __init__(self, table: AnyTable) -> None:
        super().__init__(stores_text=True)
        self._table = table

    @classmethod
    def class_name(cls) -> str:
        """Name for LlamaIndex's serialization."""
        return "ReGeSCatalogVectorStore"

    @property
    def client(self) -> AnyTable:
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
            writer.delete(self._ids(node_ids or None, filters))

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
        return list(map(row_node, self._table.rows(found)))

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Find nodes; modes DEFAULT, MMR and, where the store has it, HYBRID.

        Raises
        ------
        InputError
            If there is no embedding to search with, or the mode is another.
        """
        if not query.query_embedding:
            raise InputError("the query is empty", hint="pass a query text or an embedding")
        where = filter_of(self._table, query.filters)
        embedding, wanted = query.query_embedding, query.similarity_top_k
        if query.mode is VectorStoreQueryMode.MMR:
            hits = self._diverse(embedding, wanted, where, **kwargs)
        elif query.mode is VectorStoreQueryMode.HYBRID:
            if not (query.query_str or "").strip():
                raise InputError("a hybrid query has no text", hint="pass a query text with the embedding")
            hits = self._table.search_hybrid(query.query_str or "", embedding, wanted, where=where)
        elif query.mode is VectorStoreQueryMode.DEFAULT:
            [hits] = self._table.search([embedding], wanted, where=where)
        else:
            raise InputError(
                f"query mode {query.mode.value!r} is not supported", hint="use 'default', 'mmr' or 'hybrid'"
            )
        return VectorStoreQueryResult(
            nodes=[row_node(hit.row) for hit in hits],
            similarities=[hit.score for hit in hits],
            ids=[hit.row.id for hit in hits],
        )

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Do `query` in a thread, which leaves the event loop free."""
        return await asyncio.to_thread(self.query, query, **kwargs)

    def _diverse(
        self,
        embedding: list[float],
        top_k: int,
        where: Filter | None,
        *,
        mmr_threshold: float | None = None,
        mmr_prefetch_factor: float = _MMR_PREFETCH,
        **_kwargs: Any,
    ) -> list[Hit]:
        size = max(top_k, int(top_k * mmr_prefetch_factor))
        [hits] = self._table.search([embedding], size, where=where, with_vectors=True)
        if not hits:
            return []
        _, chosen = get_top_k_mmr_embeddings(
            embedding,
            np.stack([hit.row.vector for hit in hits if hit.row.vector is not None]).tolist(),
            similarity_top_k=top_k,
            embedding_ids=list(range(len(hits))),
            mmr_threshold=mmr_threshold,
        )
        return [hits[number] for number in chosen]

    def _ids(self, node_ids: list[str] | None, filters: MetadataFilters | None) -> list[str]:
        where = filter_of(self._table, filters)
        if node_ids is None:
            return self._table.ids(where)
        passing = None if where is None else set(self._table.ids(where))
        found = [row.id for row in self._table.rows(node_ids)]
        return found if passing is None else [row_id for row_id in found if row_id in passing]

    @contextmanager
    def _writing(self) -> Iterator[Table]:
        with self._table.writing() as writer:
            if writer.record().broken:
                raise CatalogError(
                    f"{self._table.label} was killed while its vector index was written",
                    hint="sync its items again, which makes it anew",
                )
            yield writer
