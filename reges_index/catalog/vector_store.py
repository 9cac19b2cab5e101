"""`CatalogVectorStore`: the catalog's collection as a LlamaIndex vector store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from reges_index.catalog.handle import StoreHandle
from reges_index.catalog.rows import iter_rows, node_row, row_node
from reges_index.catalog.search import search_store
from reges_index.catalog.store import store_errors
from reges_index.errors import CatalogError, InputError

__all__ = ["CatalogVectorStore"]

_MMR_PREFETCH = 4.0


class CatalogVectorStore(ChromaVectorStore):
    """`ChromaVectorStore` whose scores are cosines, whose writes replace, and whose filters know lists.

    The stock store scores ``exp(-distance)``, keeps the old row when an id is added again, sends more rows
    at once than Chroma takes, and has no filter for membership in a list.

    Parameters
    ----------
    store
        The open store.
    name
        Of the collection.
    list_keys
        Metadata keys that hold lists.
    read_only
        Refuse to write, for collections that were made elsewhere.
    """

    _store: StoreHandle = PrivateAttr()
    _name: str = PrivateAttr()
    _list_keys: frozenset[str] = PrivateAttr()
    _read_only: bool = PrivateAttr()

    def __init__(self, store: StoreHandle, name: str, *, list_keys: frozenset[str], read_only: bool) -> None:
        with store.reading() as client:
            super().__init__(
                chroma_collection=client.get_collection(name, embedding_function=None), collection_name=name
            )
        self._store = store
        self._name = name
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
        rows = [node_row(node) for node in nodes]
        size = self._store.batch_size
        with self._writing() as (collection, checkpoint):
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                ids = [row.id for row in part]
                # Delete first: an upsert would keep metadata keys that the new row does not have.
                collection.delete(ids=ids)
                collection.add(
                    ids=ids,
                    documents=[row.document for row in part],
                    metadatas=[row.metadata for row in part],
                    embeddings=[node.get_embedding() for node in nodes[start : start + size]],
                )
                checkpoint()
        return [row.id for row in rows]

    def delete(self, ref_doc_id: str, **_kwargs: Any) -> None:
        """Delete the nodes of a LlamaIndex document (items have none; see `delete_nodes`)."""
        with self._writing() as (collection, _checkpoint):
            collection.delete(where={"document_id": ref_doc_id})

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **_kwargs: Any
    ) -> None:
        """Delete nodes by id, by filter, or by both at once."""
        if not node_ids and filters is None:
            return
        with self._writing() as (collection, _checkpoint):
            where = to_where(filters, self._list_keys)
            found = collection.get(ids=node_ids or None, where=where, include=[])["ids"]
            for start in range(0, len(found), self._store.batch_size):
                collection.delete(ids=found[start : start + self._store.batch_size])

    def clear(self) -> None:
        """Delete all nodes."""
        with self._reading() as collection:
            found = collection.get(include=[])["ids"]
        self.delete_nodes(found)

    def get_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
    ) -> list[BaseNode]:
        """Return nodes by id, by filter, or all of them, in Chroma's order."""
        where = to_where(filters, self._list_keys)
        nodes = []
        with self._reading() as collection:
            found = collection.get(ids=node_ids or None, where=where, include=[])["ids"]
            for rows in iter_rows(collection, found, ["documents", "metadatas"], self._store.batch_size):
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
        [hits] = search_store(
            self._store, self._name, [query.query_embedding], query.similarity_top_k, where=where
        )
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
        [hits] = search_store(
            self._store, self._name, [query.query_embedding], wanted, where=where, with_vectors=True
        )
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

    @contextmanager
    def _reading(self) -> Iterator[Collection]:
        with store_errors(f"catalog {self._name!r}"), self._store.reading() as client:
            yield client.get_collection(self._name, embedding_function=None)

    @contextmanager
    def _writing(self) -> Iterator[tuple[Collection, Callable[[], None]]]:
        if self._read_only:
            raise CatalogError(
                f"collection {self._name!r} was made elsewhere and is only read",
                hint="make a catalog of your own with ItemCatalog.from_items",
            )
        folder = self._store.location.persist_dir
        with store_errors(f"catalog {self._name!r}", folder), self._store.writing(self._name) as write:
            if write.broken:
                raise CatalogError(
                    f"catalog {self._name!r} was killed while its vector index was written",
                    hint="sync its items again, which makes it anew",
                )
            yield write.client.get_collection(self._name, embedding_function=None), write.checkpoint
