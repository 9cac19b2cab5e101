"""Stores that hold catalogs, behind one small interface (`reges_index.catalog.stores.base.Table`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reges_index.catalog.store import StoreLocation
from reges_index.catalog.stores.base import Hits, Record, Stored, Table, Writer

if TYPE_CHECKING:
    from llama_index.core.vector_stores.types import BasePydanticVectorStore

__all__ = ["Hits", "Record", "Stored", "Table", "Writer", "table_at", "table_of"]


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
    """Return the table behind one of LlamaIndex's vector stores; see `adopt`."""
    from reges_index.catalog.stores.adopt import adopt

    return adopt(vector_store)
