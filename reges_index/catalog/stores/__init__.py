"""Stores that hold catalogs, behind one small interface (`reges_index.catalog.stores.base.Table`).

Here a table is opened, and checked before it serves.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reges_index.catalog.encoder_names import DEFAULT_ENCODER
from reges_index.catalog.place import StoreLocation
from reges_index.errors import (
    CatalogError,
    ConfigError,
    EncoderMismatchError,
    InputError,
    StoreNotFoundError,
)

if TYPE_CHECKING:
    from llama_index.core.vector_stores.types import BasePydanticVectorStore

    from reges_index.catalog.encoder import EncoderIdentity
    from reges_index.catalog.fields import FieldNames
    from reges_index.catalog.item import TextTemplate
    from reges_index.catalog.stores.base import AnyTable, Record, Table

__all__ = ["check_whole", "default_encoder_of", "open_table", "table_at", "table_of"]

logger = logging.getLogger(__name__)

# A vector finds itself with cosine 1, up to the rounding of 32-bit floats and their order of addition.
_SELF = 0.999

_warned: set[tuple[str, str]] = set()

# Each store's library is imported where it is used: none is needed for the others.


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
        table: Table = getattr(store.client, "inner", store.client)
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
    settings = collection._client.get_settings()
    if settings.is_persistent:
        location = StoreLocation(Path(settings.persist_directory).expanduser().resolve())
        return table_at(location, collection.name, create=False)
    if settings.chroma_server_host:
        secure = "https" if settings.chroma_server_ssl_enabled else "http"
        url = f"{secure}://{settings.chroma_server_host}:{settings.chroma_server_http_port}"
        return table_at(StoreLocation(None, url), collection.name, create=False)
    import chromadb

    from reges_index.catalog.stores.chroma import ChromaTable
    from reges_index.catalog.stores.chroma_store import StoreHandle

    client = chromadb.EphemeralClient(
        settings=settings, tenant=collection.tenant, database=collection.database
    )
    return ChromaTable(StoreHandle(StoreLocation(), create=False, client=client), collection.name)


def default_encoder_of(table: Table) -> str | None:
    """Return the encoder to open a table with where none is named.

    Returns
    -------
    str or None
        None is R, the encoder that ships. A table that plain all-MiniLM-L6-v2 has made, or that was made
        elsewhere and does not say by what, keeps it: a log line says what indexing anew would give.
    """
    try:
        record = table.record()
    except StoreNotFoundError:
        return None
    if record.identity is not None and record.identity.name != DEFAULT_ENCODER:
        return None
    if record.identity is not None and ("anew", str(table.place)) not in _warned:
        _warned.add(("anew", str(table.place)))
        logger.info(
            "catalog %r in %s was made with plain all-MiniLM-L6-v2 and goes on with it; indexed anew with "
            "encoder reges, the first item is right about twice as often (finetune/FUSION.md)",
            table.name,
            table.place,
        )
    return DEFAULT_ENCODER


def open_table(
    table: Table, identity: EncoderIdentity, template: TextTemplate, names: FieldNames, *, create: bool
) -> AnyTable:
    """Check a table, making it first where that is asked for.

    Returns
    -------
    AnyTable
        This one or, if it was made elsewhere, one that reads it by the names of its fields.

    Raises
    ------
    StoreNotFoundError
        If it is not there and `create` is false.
    EncoderMismatchError
        If it was made with another encoder, dimension, template or space.
    CatalogError
        If its first sync was interrupted and `create` is false.
    """
    if create:
        table.create(identity)
    record = table.record()
    if record.identity is None:
        from reges_index.catalog.stores.base import AdoptedTable

        _check_foreign(record, identity, table.label)
        return AdoptedTable(table, names, template)
    record.identity.check(identity, table.label)
    if not create and not record.complete:
        raise CatalogError(
            f"{table.label} is half-written: its first sync stopped after {table.count()} items",
            hint="index the items again; what is there is kept and not embedded twice",
        )
    if not create and record.broken:
        raise CatalogError(
            f"{table.label} is half-written: a sync was killed while its vector index was saved",
            hint="index the items again; the catalog is then made anew",
        )
    return table


def _check_foreign(record: Record, identity: EncoderIdentity, where: str) -> None:
    """Check what can be checked of a table that does not record its encoder; warn once."""
    if record.dimension is not None and record.dimension != identity.dimension:
        raise EncoderMismatchError(
            f"{where} holds vectors of dimension {record.dimension}; "
            f"{identity.name!r} makes {identity.dimension}",
            hint="pass the embed_model that the collection was made with",
        )
    if (where, identity.name) not in _warned:
        _warned.add((where, identity.name))
        logger.warning(
            "%s was made elsewhere and does not say with which encoder; %s is assumed", where, identity.name
        )


def check_whole(table: AnyTable, made_with: EncoderIdentity, encoder: EncoderIdentity) -> None:
    """Read a whole table and check that it can serve.

    Parameters
    ----------
    table, made_with
        The one to check, and what its vectors were made with.
    encoder
        What they must have been made with.

    Raises
    ------
    InputError
        If it is empty.
    EncoderMismatchError
        If it was made with another encoder.
    CatalogError
        If it is half-written, an item cannot be read or has no vector, or the index does not find it.
    """
    from reges_index.catalog.stores.base import AdoptedTable, item_of

    encoder.check(made_with, "the live catalog")
    ids = table.ids()
    if not ids:
        raise InputError(
            f"{table.label} is empty", hint="a catalog needs at least one item; the old one stays"
        )

    def wrong(what: str) -> CatalogError:
        return CatalogError(
            f"{table.label}{what}", hint="what was live stays live; index the items of the new catalog again"
        )

    record = table.record()
    if record.broken or not record.complete:
        raise wrong(" is half-written")
    count = 0
    for row in table.rows(ids, with_vectors=True):
        count += 1
        item_of(row)  # or an error
        vector = row.vector
        if vector is None or vector.shape != (encoder.dimension,) or not np.isfinite(vector).all():
            raise wrong(f": item {row.id!r} has no usable vector")
        if not vector.any():
            raise wrong(f": item {row.id!r} has a vector of zeros")
        probe = vector.tolist()
    if count != len(ids):
        raise wrong(f": {len(ids)} items are listed and {count} can be read")
    [hits] = table.search([probe], 1, with_rows=False)
    # Of a table made elsewhere the vector may be the mean of several chunks.
    if not hits or (hits[0].score < _SELF and not isinstance(table, AdoptedTable)):
        raise wrong(": its index does not find an item by the item's own vector")
