"""Stores that hold catalogs, behind one small interface (`reges_index.catalog.stores.base.Table`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reges_index.catalog.place import StoreLocation
from reges_index.errors import ConfigError

if TYPE_CHECKING:
    from llama_index.core.vector_stores.types import BasePydanticVectorStore

    from reges_index.catalog.stores.base import Table

__all__ = ["table_at", "table_of"]


def table_at(location: StoreLocation, name: str, *, create: bool) -> Table:
    """Open the store at a place and return one of its tables, which need not be there yet.

    Parameters
    ----------
    location
        A folder, a Chroma server, or memory.
    name
        Of the table.
    create
        Make the store if it is missing.

    Raises
    ------
    StoreNotFoundError
        If there is no such store and `create` is false.
    CatalogError
        If the store is damaged, or of a kind that another process keeps to itself.
    StorageError
        If the folder cannot be written or the disk is full.
    ConfigError
        If the library of the store is not installed.
    """
    # Each store's library is imported where it is used: none is needed for the others.
    if location.kind == "qdrant" and location.persist_dir is not None:
        from reges_index.catalog.stores.qdrant import QdrantTable

        return QdrantTable.at(location.persist_dir, name, create=create)
    if location.kind == "lancedb" and location.persist_dir is not None:
        from reges_index.catalog.stores.lancedb import LanceTable

        return LanceTable.at(location.persist_dir, name, create=create)
    from reges_index.catalog.stores.chroma import ChromaTable

    return ChromaTable.at(location, name, create=create)


def table_of(vector_store: BasePydanticVectorStore) -> Table:
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
    # By name, so that no store's library is imported that is not in use.
    kinds = {kind.__name__ for kind in type(vector_store).__mro__}
    store: Any = vector_store
    if "CatalogVectorStore" in kinds:
        table: Table = store.table
        return table
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
    import chromadb

    from reges_index.catalog.stores.chroma import ChromaTable
    from reges_index.catalog.stores.chroma_store import StoreHandle

    settings = collection._client.get_settings()
    if settings.is_persistent:
        location = StoreLocation(Path(settings.persist_directory).expanduser().resolve())
        return ChromaTable.at(location, collection.name, create=False)
    if settings.chroma_server_host:
        secure = "https" if settings.chroma_server_ssl_enabled else "http"
        url = f"{secure}://{settings.chroma_server_host}:{settings.chroma_server_http_port}"
        return ChromaTable.at(StoreLocation(None, url), collection.name, create=False)
    client = chromadb.EphemeralClient(
        settings=settings, tenant=collection.tenant, database=collection.database
    )
    return ChromaTable(StoreHandle(StoreLocation(), create=False, client=client), collection.name)
