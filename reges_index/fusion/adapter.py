"""`QueryAdapter`: a trained map on the query side of a frozen encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["BLOCKS", "TOWER", "QueryAdapter"]

Floats = npt.NDArray[np.float32]

BLOCKS = ("dialogue", "last", "named")
"""The vectors that are mapped and summed: dialogue, last message, mean of the named items."""

TOWER = "tower"
"""One more where there is a trained query tower: the dialogue by that tower."""


@dataclass(frozen=True)
class QueryAdapter:
    """A linear map from the vectors of a dialogue to one query vector.

    Items stay where the encoder puts them, so new items and other catalogs need no training: they are found
    by their vectors, with a bias of 0.

    Attributes
    ----------
    weights
        Block name to a matrix of shape (d, d), applied to the block's vector from the right. Those of
        `BLOCKS`, and `TOWER` where it was trained with a query tower.
    bias_keys, biases
        Shape (K,): `title_hash` of items, ascending, and how much likelier each one is than its vector says,
        against an item that was never recommended.
    """

    weights: Mapping[str, Floats]
    bias_keys: npt.NDArray[np.int64]
    biases: Floats

    def query(self, blocks: Mapping[str, Floats]) -> Floats:
        """Return the adapted query vector, shape (d,).

        Its length matters: its products with items' vectors are log-odds. For a cosine retriever the
        direction is enough, so it may go into ``QueryBundle.embedding`` as it is.
        """
        parts = [blocks[name] @ weight for name, weight in self.weights.items()]
        total: Floats = np.sum(parts, axis=0, dtype=np.float32)
        return total

    def bias(self, titles: npt.NDArray[np.int64]) -> Floats:
        """Return the bias of each item by its title hash, 0 for unknown ones."""
        if not len(self.bias_keys):
            return np.zeros(len(titles), dtype=np.float32)
        place = np.searchsorted(self.bias_keys, titles).clip(max=len(self.bias_keys) - 1)
        found: Floats = np.where(self.bias_keys[place] == titles, self.biases[place], 0).astype(np.float32)
        return found
