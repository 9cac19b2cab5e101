"""From LlamaIndex's own vector stores to tables of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_index.core.vector_stores.types import BasePydanticVectorStore

from reges_index.catalog.handle import StoreHandle
from reges_index.catalog.store import StoreLocation
from reges_index.catalog.stores.base import Table
from reges_index.catalog.stores.chroma import ChromaTable
from reges_index.errors import ConfigError

__all__ = ["adopt"]


def adopt(vector_store: BasePydanticVectorStore) -> Table:
    """Return the collection or table that a LlamaIndex vector store stands for.

    Parameters
    ----------
    vector_store
        A ``ChromaVectorStore``, ``QdrantVectorStore`` (with a synchronous client) or ``LanceDBVectorStore``.

    Raises
    ------
    ConfigError
        If it is another store, or lacks what is needed to write whole catalogs.
    """
    from reges_index.catalog.vector_store import CatalogVectorStore

    if isinstance(vector_store, CatalogVectorStore):
        return vector_store.table
    # By name, so that no store's library is imported that is not in use.
    kinds = {kind.__name__ for kind in type(vector_store).__mro__}
    store: Any = vector_store
    if "ChromaVectorStore" in kinds:
        return _chroma(store.client)
    if "QdrantVectorStore" in kinds:
        if store.client is None:
            raise ConfigError(
                "the QdrantVectorStore has no synchronous client", hint="pass client=QdrantClient(...) to it"
            )
        from reges_index.catalog.stores.qdrant import QdrantTable

        return QdrantTable(store.client, store.collection_name)
    if "LanceDBVectorStore" in kinds:
        if store.vector_column_name != "vector" or store.text_key != "text":
            raise ConfigError(
                "the LanceDBVectorStore has columns of other names",
                hint="leave vector_column_name and text_key as they are",
            )
        from reges_index.catalog.stores.lancedb import LanceTable

        return LanceTable(store.client, store._table_name)
    raise ConfigError(
        f"a catalog cannot be kept in a {type(vector_store).__name__}",
        hint="use Chroma, Qdrant or LanceDB; or retrieve from your own index with "
        "ReGeSRetriever(index.as_retriever())",
    )


def _chroma(collection: Any) -> Table:
    """Open the store of a Chroma collection: its folder or server, or the memory that it is in."""
    settings = collection._client.get_settings()
    if settings.is_persistent:
        location = StoreLocation(Path(settings.persist_directory).expanduser().resolve())
        return ChromaTable.at(location, collection.name, create=False)
    if settings.chroma_server_host:
        secure = "https" if settings.chroma_server_ssl_enabled else "http"
        url = f"{secure}://{settings.chroma_server_host}:{settings.chroma_server_http_port}"
        return ChromaTable.at(StoreLocation(None, url), collection.name, create=False)
    import chromadb

    client = chromadb.EphemeralClient(
        settings=settings, tenant=collection.tenant, database=collection.database
    )
    return ChromaTable(StoreHandle(StoreLocation(), create=False, client=client), collection.name)
