"""`Snapshot`: a catalog as arrays, taken anew when the catalog's content has changed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from llama_index.core.vector_stores.types import MetadataFilters

from reges_index.catalog import Item, ItemCatalog

__all__ = ["Snapshot", "allowed_ids"]


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
        `ItemCatalog.fingerprint` of the content that was read.
    """

    items: tuple[Item, ...]
    vectors: npt.NDArray[np.float32]
    fingerprint: str

    @classmethod
    def of(cls, catalog: ItemCatalog) -> Snapshot:
        """Read a whole catalog."""
        mark = catalog.fingerprint()  # before the rows: a change in between is then seen by the next look
        items, vectors = catalog.contents()
        lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
        return cls(items, vectors / lengths, mark)


def allowed_ids(catalog: ItemCatalog, filters: MetadataFilters | None) -> frozenset[str] | None:
    """Return the ids of the items that pass the filters; None when there is nothing to filter."""
    if filters is None or not filters.filters:
        return None
    return frozenset(catalog.ids(filters))
