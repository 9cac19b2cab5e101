"""Items and catalogs (paper section 2.2).

Names are loaded on first use, so that items and readers can be had without Chroma, LlamaIndex and torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reges_index.catalog.catalog import ItemCatalog
    from reges_index.catalog.demo import demo_catalog, demo_catalogs
    from reges_index.catalog.encoder import EncoderIdentity, find_default_encoder, resolve_encoder
    from reges_index.catalog.item import Item
    from reges_index.catalog.live import LiveCatalog
    from reges_index.catalog.reader import CatalogReader, Contents
    from reges_index.catalog.readers import read_items
    from reges_index.catalog.retriever import CatalogRetriever
    from reges_index.catalog.sync import SyncReport
    from reges_index.catalog.template import DEFAULT_TEMPLATE, TextTemplate
    from reges_index.catalog.vector_store import CatalogVectorStore
    from reges_index.catalog.versions import CatalogVersion

_MODULES = {
    "CatalogReader": "reader",
    "CatalogRetriever": "retriever",
    "CatalogVectorStore": "vector_store",
    "CatalogVersion": "versions",
    "Contents": "reader",
    "DEFAULT_TEMPLATE": "template",
    "EncoderIdentity": "encoder",
    "Item": "item",
    "ItemCatalog": "catalog",
    "LiveCatalog": "live",
    "SyncReport": "sync",
    "TextTemplate": "template",
    "demo_catalog": "demo",
    "demo_catalogs": "demo",
    "find_default_encoder": "encoder",
    "read_items": "readers",
    "resolve_encoder": "encoder",
}

__all__ = [
    "DEFAULT_TEMPLATE",
    "CatalogReader",
    "CatalogRetriever",
    "CatalogVectorStore",
    "CatalogVersion",
    "Contents",
    "EncoderIdentity",
    "Item",
    "ItemCatalog",
    "LiveCatalog",
    "SyncReport",
    "TextTemplate",
    "demo_catalog",
    "demo_catalogs",
    "find_default_encoder",
    "read_items",
    "resolve_encoder",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
