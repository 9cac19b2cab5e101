"""`Snapshot`: a catalog as arrays, taken anew when the catalog's content has changed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_index.core.vector_stores.types import MetadataFilters

from reges_index.catalog import Item, ItemCatalog
from reges_index.catalog.filters import to_where
from reges_index.catalog.rows import iter_rows, row_node

__all__ = ["Snapshot", "allowed_ids", "fingerprint"]

_BATCH = 2000


@dataclass(frozen=True)
class Snapshot:
    """All items of a catalog with their vectors.

    Attributes
    ----------
    items
        N items, in the order of their ids.
    vectors
        Shape (N, d), unit length.
    fingerprint
        Of the content that was read, as by `fingerprint`.
    """

    items: tuple[Item, ...]
    vectors: npt.NDArray[np.float32]
    fingerprint: str

    @classmethod
    def of(cls, catalog: ItemCatalog) -> Snapshot:
        """Read a whole catalog."""
        mark = fingerprint(catalog)  # before the rows: a change in between is then seen by the next look
        items: list[Item] = []
        vectors: list[npt.NDArray[np.float32]] = []
        # The catalog has no public way to its vectors; this is how its own search reads them.
        with catalog._reading() as collection:
            ids = sorted(collection.get(include=[])["ids"])
            for rows in iter_rows(collection, ids, ["documents", "metadatas", "embeddings"], _BATCH):
                items += [Item.from_node(row_node(*row)) for row in _texts(rows)]
                vectors += [np.asarray(vector, dtype=np.float32) for vector in rows["embeddings"]]
        order = sorted(range(len(items)), key=lambda n: items[n].id)
        table = np.stack([vectors[n] for n in order]) if order else np.zeros((0, 1), dtype=np.float32)
        table = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-9)
        return cls(tuple(items[n] for n in order), table, mark)


def _texts(rows: dict[str, Any]) -> zip[tuple[Any, Any, Any]]:
    return zip(rows["ids"], rows["documents"], rows["metadatas"], strict=True)


def fingerprint(catalog: ItemCatalog) -> str:
    """Return a hash of the catalog's ids and texts (SHA-256, hex); cheap beside reading the vectors."""
    digest = hashlib.sha256()
    with catalog._reading() as collection:
        rows = collection.get(include=["documents"])
    documents = rows["documents"] or []
    for row_id, document in sorted(zip(rows["ids"], documents, strict=True)):
        digest.update(f"{row_id}\0{document}\0".encode(errors="surrogatepass"))
    return digest.hexdigest()


def allowed_ids(catalog: ItemCatalog, filters: MetadataFilters | None) -> frozenset[str] | None:
    """Return the ids of the items that pass the filters; None when there is nothing to filter."""
    where = to_where(filters, catalog._list_keys)
    if where is None:
        return None
    with catalog._reading() as collection:
        return frozenset(collection.get(where=where, include=[])["ids"])
