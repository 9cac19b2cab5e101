"""The Chroma collection of a catalog: its settings and what it records about itself."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from chromadb import Collection
from chromadb.api import ClientAPI

from reges_index.catalog.encoder import EncoderIdentity
from reges_index.errors import CatalogError, StoreNotFoundError

__all__ = [
    "create_collection",
    "delete_collection",
    "find_collection",
    "is_complete",
    "mark_complete",
    "recorded_identity",
    "space_of",
    "stored_dimension",
]

logger = logging.getLogger(__name__)

_FORMAT = 1
_FORMAT_KEY = "reges_format"
_STATE_KEY = "reges_state"
_PREFIX = "reges_encoder_"
_BUILDING, _COMPLETE = "building", "complete"

# 20,000 random vectors: recall@10 was 0.59 with Chroma's defaults and 0.999 with these. Only ef_search can be
# changed once a collection is made.
_HNSW = {"space": "cosine", "ef_search": 500, "ef_construction": 400, "max_neighbors": 64}


def create_collection(client: ClientAPI, name: str, identity: EncoderIdentity) -> Collection:
    """Make an empty collection that knows its encoder and that its first sync is not finished."""
    metadata = {_FORMAT_KEY: _FORMAT, _STATE_KEY: _BUILDING}
    metadata.update({f"{_PREFIX}{key}": value for key, value in asdict(identity).items()})
    return client.create_collection(
        name,
        metadata=metadata,
        configuration={"hnsw": _HNSW},
        embedding_function=None,
    )


def find_collection(client: ClientAPI, name: str, where: str) -> Collection:
    """Return the collection of that name.

    Raises
    ------
    StoreNotFoundError
        If there is none; the message lists what there is.
    """
    names = sorted(collection.name for collection in client.list_collections())
    if name not in names:
        raise StoreNotFoundError(
            f"{where}: there is no catalog {name!r}",
            hint=f"catalogs there: {', '.join(names)}"
            if names
            else "the store is empty; index the items first",
        )
    return client.get_collection(name, embedding_function=None)


def recorded_identity(collection: Collection, where: str) -> EncoderIdentity | None:
    """Return the encoder that the collection records; None if it was not made by this package.

    Raises
    ------
    CatalogError
        If it was made by a version with another format.
    """
    metadata: dict[str, Any] = dict(collection.metadata or {})
    if _FORMAT_KEY not in metadata:
        return None
    if metadata[_FORMAT_KEY] != _FORMAT:
        raise CatalogError(
            f"{where} has catalog format {metadata[_FORMAT_KEY]}, this version reads {_FORMAT}",
            hint="index the items again, or update reges-index",
        )
    names = EncoderIdentity.__dataclass_fields__
    return EncoderIdentity(**{name: metadata[f"{_PREFIX}{name}"] for name in names})


def is_complete(collection: Collection) -> bool:
    """Whether a first sync has reached its end."""
    return (collection.metadata or {}).get(_STATE_KEY) == _COMPLETE


def mark_complete(collection: Collection) -> None:
    """Record that the collection holds a whole catalog."""
    if not is_complete(collection):
        collection.modify(metadata={**(collection.metadata or {}), _STATE_KEY: _COMPLETE})


def space_of(collection: Collection) -> str:
    """Distance of the collection's index: "cosine", "l2" or "ip"."""
    configuration: dict[str, Any] = dict(collection.configuration)
    index = configuration.get("hnsw") or configuration.get("spann") or {}
    return str(index.get("space") or "l2")


def stored_dimension(collection: Collection) -> int | None:
    """Length of the vectors in the collection; None if it is empty."""
    vectors = collection.get(limit=1, include=["embeddings"])["embeddings"]
    return None if vectors is None or len(vectors) == 0 else len(vectors[0])


def delete_collection(client: ClientAPI, name: str, *, broken: bool = False) -> None:
    """Delete a collection and everything that its rows leave behind.

    Chroma keeps the values of metadata lists (genres, cast) of a deleted collection under row numbers that it
    gives to rows of later ones: an item without genres would then pass a filter for the genre of another that
    is long gone. Deleting the rows first takes their lists with them; where the index is ``broken`` rows
    cannot be deleted, and the lists stay.
    """
    if broken:
        client.delete_collection(name)
        return
    collection = client.get_collection(name)
    ids = collection.get(include=[])["ids"]
    size = client.get_max_batch_size()
    for start in range(0, len(ids), size):
        collection.delete(ids=ids[start : start + size])
    client.delete_collection(name)
