"""`CatalogVectorStore`: the catalog's collection as a LlamaIndex vector store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chromadb import Collection
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.indices.query.embedding_utils import get_top_k_mmr_embeddings
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from llama_index.vector_stores.chroma import ChromaVectorStore

from reges_index.catalog.filters import to_where
from reges_index.catalog.rows import iter_rows, node_row, row_node
from reges_index.catalog.search import search
from reges_index.errors import CatalogError, InputError

__all__ = ["CatalogVectorStore"]

_MMR_PREFETCH = 4.0


class CatalogVectorStore(ChromaVectorStore):
    """`ChromaVectorStore` whose scores are cosines, whose writes replace, and whose filters know lists.

    The stock store scores ``exp(-distance)``, keeps the old row when an id is added again, sends more rows
    at once than Chroma takes, and has no filter for membership in a list.

    Parameters
    ----------
    collection
        The collection.
    batch_size
        Most rows that Chroma takes in one call.
    list_keys
        Metadata keys that hold lists.
    read_only
        Refuse to write, for collections that were made elsewhere.
    """

    _batch_size: int = PrivateAttr()
    _list_keys: frozenset[str] = PrivateAttr()
    _read_only: bool = PrivateAttr()

    def __init__(
        self, collection: Collection, *, batch_size: int, list_keys: frozenset[str], read_only: bool
    ) -> None:
        super().__init__(chroma_collection=collection)
        self._batch_size = batch_size
        self._list_keys = list_keys
        self._read_only = read_only

    @classmethod
    def class_name(cls) -> str:
        """Name for LlamaIndex's serialization."""
        return "ReGeSCatalogVectorStore"

    def add(self, nodes: Sequence[BaseNode], **_kwargs: Any) -> list[str]:
        """Write nodes that have embeddings, replacing rows of the same ids.

        A later ``ItemCatalog.sync`` removes what is not among its items.

        Raises
        ------
        CatalogError
            If the collection was made elsewhere.
        """
        if self._read_only:
            raise CatalogError(
                f"collection {self._collection.name!r} was made elsewhere and is only read",
                hint="make a catalog of your own with ItemCatalog.from_items",
            )
        rows = [node_row(node) for node in nodes]
        for start in range(0, len(rows), self._batch_size):
            part = rows[start : start + self._batch_size]
            ids = [row.id for row in part]
            # Delete first: an upsert would keep metadata keys that the new row does not have.
            self._collection.delete(ids=ids)
            self._collection.add(
                ids=ids,
                documents=[row.document for row in part],
                metadatas=[row.metadata for row in part],
                embeddings=[node.get_embedding() for node in nodes[start : start + self._batch_size]],
            )
        return [row.id for row in rows]

    def get_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
    ) -> list[BaseNode]:
        """Return nodes by id, by filter, or all of them, in Chroma's order."""
        where = to_where(filters, self._list_keys)
        found = self._collection.get(ids=node_ids, where=where, include=[])["ids"]
        nodes = []
        for rows in iter_rows(self._collection, found, ["documents", "metadatas"], self._batch_size):
            nodes += list(map(row_node, rows["ids"], rows["documents"], rows["metadatas"]))
        return nodes

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Find nodes; modes DEFAULT and MMR.

        Raises
        ------
        InputError
            If there is no embedding to search with, or the mode is another.
        """
        if not query.query_embedding:
            raise InputError("the query is empty", hint="pass a query text or an embedding")
        if query.mode not in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR):
            raise InputError(
                f"query mode {query.mode.value!r} is not supported", hint="use 'default' or 'mmr'"
            )
        where = to_where(query.filters, self._list_keys) or kwargs.get("where")
        if query.mode is VectorStoreQueryMode.MMR:
            return self._diverse(query, where, **kwargs)
        [hits] = search(self._collection, [query.query_embedding], query.similarity_top_k, where=where)
        nodes = list(map(row_node, hits.ids, hits.documents, hits.metadatas))
        return VectorStoreQueryResult(nodes=nodes, similarities=hits.scores, ids=hits.ids)

    def _diverse(
        self,
        query: VectorStoreQuery,
        where: dict[str, Any] | None,
        *,
        mmr_threshold: float | None = None,
        mmr_prefetch_factor: float = _MMR_PREFETCH,
        **_kwargs: Any,
    ) -> VectorStoreQueryResult:
        assert query.query_embedding is not None  # checked by `query`
        wanted = max(query.similarity_top_k, int(query.similarity_top_k * mmr_prefetch_factor))
        [hits] = search(self._collection, [query.query_embedding], wanted, where=where, with_vectors=True)
        if hits.vectors is None:
            return VectorStoreQueryResult(nodes=[], similarities=[], ids=[])
        _, chosen = get_top_k_mmr_embeddings(
            query.query_embedding,
            hits.vectors.tolist(),
            similarity_top_k=query.similarity_top_k,
            embedding_ids=list(range(len(hits.ids))),
            mmr_threshold=mmr_threshold,
        )
        return VectorStoreQueryResult(
            nodes=[row_node(hits.ids[i], hits.documents[i], hits.metadatas[i]) for i in chosen],
            similarities=[hits.scores[i] for i in chosen],
            ids=[hits.ids[i] for i in chosen],
        )
