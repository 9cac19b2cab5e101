"""Items and catalogs (paper section 2.2).

Names are loaded on first use, so that items and readers can be had without Chroma, LlamaIndex and torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reges_index.catalog.catalog import ItemCatalog as ItemCatalog
    from reges_index.catalog.catalog import SyncReport as SyncReport
    from reges_index.catalog.demo import demo_catalog as demo_catalog
    from reges_index.catalog.demo import demo_catalogs as demo_catalogs
    from reges_index.catalog.encoder import EncoderIdentity as EncoderIdentity
    from reges_index.catalog.encoder import resolve_encoder as resolve_encoder
    from reges_index.catalog.encoder_names import find_default_encoder as find_default_encoder
    from reges_index.catalog.fields import FieldNames as FieldNames
    from reges_index.catalog.item import DEFAULT_TEMPLATE as DEFAULT_TEMPLATE
    from reges_index.catalog.item import Item as Item
    from reges_index.catalog.item import TextTemplate as TextTemplate
    from reges_index.catalog.live import CatalogVersion as CatalogVersion
    from reges_index.catalog.live import LiveCatalog as LiveCatalog
    from reges_index.catalog.local_encoders import ReGeSEmbedding as ReGeSEmbedding
    from reges_index.catalog.reader import CatalogReader as CatalogReader
    from reges_index.catalog.reader import CatalogRetriever as CatalogRetriever
    from reges_index.catalog.reader import Contents as Contents
    from reges_index.catalog.readers import read_items as read_items
    from reges_index.catalog.vector_store import CatalogVectorStore as CatalogVectorStore
else:
    from reges_index._lazy import lazy_names

    __getattr__, __dir__, __all__ = lazy_names(__name__)
