"""`CatalogVectorStore`: a catalog as a LlamaIndex vector store to search in, whatever store it is kept in."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)

from reges_index.catalog.stores.base import AnyTable, filter_of, row_node
from reges_index.errors import CatalogError, InputError


class CatalogVectorStore(BasePydanticVectorStore):
    """The same behaviour over every store: scores are cosines, and filters know lists.

    It is only searched: items are written by ``ItemCatalog.add``, ``sync`` and ``remove``.

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
        """Refuse; CatalogError."""
        raise CatalogError(
            f"an index over {self._table.label} is only read",
            hint=f"write {len(nodes)} items with the catalog's own add or sync",
        )

    def delete(self, ref_doc_id: str, **_kwargs: Any) -> None:
        """Refuse; CatalogError."""
        raise CatalogError(
            f"an index over {self._table.label} is only read",
            hint=f"the catalog's own remove([{ref_doc_id!r}]) removes an item",
        )

    def query(self, query: VectorStoreQuery, **_kwargs: Any) -> VectorStoreQueryResult:
        """Find nodes; modes DEFAULT and, where the store has it, HYBRID.

        Raises
        ------
        InputError
            If there is no embedding to search with, or the mode is another.
        """
        if not query.query_embedding:
            raise InputError("the query is empty", hint="pass a query text or an embedding")
        where = filter_of(self._table, query.filters)
        embedding, wanted = query.query_embedding, query.similarity_top_k
        if query.mode is VectorStoreQueryMode.HYBRID:
            hits = self._table.search_hybrid(query.query_str or "", embedding, wanted, where=where)
        elif query.mode is VectorStoreQueryMode.DEFAULT:
            [hits] = self._table.search([embedding], wanted, where=where)
        else:
            raise InputError(
                f"query mode {query.mode.value!r} is not supported", hint="use 'default' or 'hybrid'"
            )
        return VectorStoreQueryResult(
            nodes=[row_node(hit.row) for hit in hits],
            similarities=[hit.score for hit in hits],
            ids=[hit.row.id for hit in hits],
        )

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Do `query` in a thread, which leaves the event loop free."""
        return await asyncio.to_thread(self.query, query, **kwargs)
