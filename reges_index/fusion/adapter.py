"""`QueryAdapter`: a trained map on the query side of a frozen encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["BLOCKS", "QueryAdapter"]

Floats = npt.NDArray[np.float32]

BLOCKS = ("dialogue", "last", "named")
"""The vectors that are mapped and summed: dialogue, last message, mean of the named items."""


@dataclass(frozen=True)
class QueryAdapter:
    """A linear map from the vectors of a dialogue to one query vector.

    Items stay where the encoder puts them, so new items and other catalogs need no training: they are found
    by their vectors.

    Attributes
    ----------
    weights
        Block name to a matrix of shape (d, d), applied to the block's vector from the right.
    """

    weights: Mapping[str, Floats]

    def query(self, blocks: Mapping[str, Floats]) -> Floats:
        """Return the adapted query vector, shape (d,).

        Its length matters: its products with items' vectors are log-odds. For a cosine retriever the
        direction is enough, so it may go into ``QueryBundle.embedding`` as it is.
        """
        parts = [blocks[name] @ weight for name, weight in self.weights.items()]
        total: Floats = np.sum(parts, axis=0, dtype=np.float32)
        return total
