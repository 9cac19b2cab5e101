"""`Neighbours`: what was recommended, or named by a teacher, in the train dialogues most like a new one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from reges_index.catalog.item import Item
from reges_index.fusion.statistics import title_hash

__all__ = ["BoundNeighbours", "Neighbours", "shares_of"]

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]

# How many dialogues have a say, how fast it falls with their likeness, and what an item has that none of
# them names. Chosen by cross-validation on the train sets (finetune/FUSION.md).
_NEAREST = 300
_SHARPNESS = 15.0
_FLOOR = 3e-4


def shares_of(targets: Sequence[Item], ranking: Sequence[Item], teacher_share: float) -> dict[Item, float]:
    """Return what each item has of one dialogue's word; all shares sum to 1.

    Parameters
    ----------
    targets
        What was recommended.
    ranking
        What a teacher names there, best first; without any, the targets have it all.
    teacher_share
        What the teacher's items have together, the first ones more.
    """
    found: defaultdict[Item, float] = defaultdict(float)
    left = teacher_share if ranking else 0.0
    if not targets:
        left = 1.0
    for item in targets:
        found[item] += (1 - left) / len(targets)
    weights = 1 / (1.5 + np.arange(len(ranking)))
    for item, weight in zip(ranking, weights / max(float(weights.sum()), 1e-9), strict=True):
        found[item] += left * float(weight)
    return dict(found)


@dataclass(frozen=True)
class Neighbours:
    """Train dialogues by their vectors; no text of any dialogue or item.

    Attributes
    ----------
    vectors
        Shape (T, d): of the dialogues, unit length, in half precision.
    starts
        Shape (T + 1,): where each dialogue's entries begin in the two below.
    titles, shares
        Shape (E,): `title_hash` of an item, and its share of the dialogue's word.
    """

    vectors: npt.NDArray[np.float16]
    starts: Ints
    titles: Ints
    shares: npt.NDArray[np.float32]

    @classmethod
    def count(cls, vectors: Sequence[Floats], words: Sequence[Mapping[Item, float]]) -> Neighbours:
        """Keep dialogues, shape (d,) each, with what `shares_of` says of each."""
        return cls(
            vectors=np.array(vectors, dtype=np.float16) if vectors else np.zeros((0, 0), dtype=np.float16),
            starts=np.cumsum([0, *(len(word) for word in words)], dtype=np.int64),
            titles=np.array([title_hash(item) for word in words for item in word], dtype=np.int64),
            shares=np.array([share for word in words for share in word.values()], dtype=np.float32),
        )

    def bind(self, items: Sequence[Item]) -> BoundNeighbours:
        """Arrange the entries for a catalog; those whose items it does not have count for nothing."""
        places: defaultdict[int, list[int]] = defaultdict(list)
        for position, item in enumerate(items):
            places[title_hash(item)].append(position)
        lengths, positions, shares = [0], [], []
        for dialogue in range(len(self.vectors)):
            for entry in range(self.starts[dialogue], self.starts[dialogue + 1]):
                for position in places.get(int(self.titles[entry]), ()):
                    positions.append(position)
                    shares.append(self.shares[entry])
            lengths.append(len(positions))
        return BoundNeighbours(
            self.vectors.astype(np.float32),
            np.array(lengths, dtype=np.int64),
            np.array(positions, dtype=np.int64),
            np.array(shares, dtype=np.float32),
            len(items),
        )


@dataclass(frozen=True)
class BoundNeighbours:
    """Neighbours in the order of one catalog of N items; see `Neighbours`."""

    _vectors: Floats
    _starts: Ints
    _positions: Ints
    _shares: Floats
    _size: int

    def scores(self, vector: Floats) -> Floats:
        """Return how much the nearest dialogues speak for each item, shape (N,), from 0 on.

        Parameters
        ----------
        vector
            Shape (d,): of the dialogue, unit length.
        """
        total = np.zeros(self._size)
        if len(self._positions):
            alike = self._vectors @ vector
            best = np.argsort(-alike, kind="stable")[:_NEAREST]
            says = np.exp(_SHARPNESS * (alike[best] - alike[best[0]]))
            for dialogue, word in zip(best, says / says.sum(), strict=True):
                its = slice(self._starts[dialogue], self._starts[dialogue + 1])
                np.add.at(total, self._positions[its], word * self._shares[its])
        return np.log1p(total / _FLOOR)
