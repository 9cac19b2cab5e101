"""Catalogs by the text that names their store, as on the command line and in pipeline files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding

    from reges_index.catalog.catalog import ItemCatalog
    from reges_index.catalog.live import LiveCatalog
    from reges_index.catalog.live_state import LiveState

__all__ = ["is_url", "live_in", "open_catalog_at", "place_of"]


def is_url(store: str) -> bool:
    """Whether a store is a server."""
    return store.startswith(("http://", "https://"))


def place_of(store: str) -> dict[str, Any]:
    """Return the arguments of `ItemCatalog.open` for a folder or an address."""
    return {"url": store} if is_url(store) else {"persist_dir": store}


def live_in(store: str) -> dict[str, LiveState]:
    """Return the live catalogs that a folder says it has, by name; none for a server, which does not say."""
    if is_url(store):
        return {}

    from reges_index.catalog.live_state import live_catalogs
    from reges_index.catalog.store import StoreLocation

    folder = StoreLocation.of(place_of(store)["persist_dir"], None).persist_dir
    return live_catalogs(folder) if folder is not None else {}


def open_catalog_at(
    store: str, name: str, encoder: BaseEmbedding | str | None, *, live: bool = False
) -> ItemCatalog | LiveCatalog:
    """Open a catalog in a folder, ``qdrant:FOLDER``, ``lancedb:FOLDER`` or at ``http://host:port``.

    One that its folder says is live, or with `live`, is open at its live version. Errors are those of
    `ItemCatalog.open`.
    """
    # Imported here, so that an address can be looked at without LlamaIndex.
    from reges_index.catalog.catalog import ItemCatalog
    from reges_index.catalog.live import LiveCatalog

    kind: type[ItemCatalog] | type[LiveCatalog] = (
        LiveCatalog if live or name in live_in(store) else ItemCatalog
    )
    return kind.open(**place_of(store), name=name, embed_model=encoder)
