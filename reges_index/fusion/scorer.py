"""`Scorer`: from the features of an item to its score, a weighted sum with a small correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from reges_index.fusion.features import FEATURES

__all__ = ["TENSORS", "Scorer", "log_softmax"]

Floats = npt.NDArray[np.float32]

TENSORS = ("linear", "hidden", "offset", "out")
"""Arrays that a scorer consists of."""


@dataclass(frozen=True)
class Scorer:
    """Scores features: ``x @ linear + tanh(x @ hidden + offset) @ out``.

    The sum is what was learnt first and carries most of it; the hidden units add what sources say together
    (a title that is named *and* near to the last message).

    Attributes
    ----------
    linear
        Shape (F,): the weight of each of `FEATURES`.
    hidden, offset, out
        Shapes (F, H), (H,) and (H,); H may be 0.
    """

    linear: Floats
    hidden: Floats
    offset: Floats
    out: Floats

    @classmethod
    def weighted(cls, linear: Floats) -> Scorer:
        """Return a plain weighted sum."""
        nothing = np.zeros(0, dtype=np.float32)
        return cls(linear, np.zeros((len(linear), 0), dtype=np.float32), nothing, nothing)

    @classmethod
    def mean(cls, scorers: Sequence[Scorer]) -> Scorer:
        """Return the scorer that gives the mean of others' scores: their hidden units side by side."""
        return cls(
            linear=np.mean([one.linear for one in scorers], axis=0, dtype=np.float32),
            hidden=np.ascontiguousarray(np.concatenate([one.hidden for one in scorers], axis=1)),
            offset=np.concatenate([one.offset for one in scorers]),
            out=(np.concatenate([one.out for one in scorers]) / len(scorers)).astype(np.float32),
        )

    def __call__(self, features: Floats) -> Floats:
        """Return the scores of items, shape (N,), from their features, shape (N, F)."""
        scores: Floats = features @ self.linear
        if len(self.out):
            scores = scores + np.tanh(features @ self.hidden + self.offset) @ self.out
        return scores

    def shifted(self, feature: str, by: float) -> Scorer:
        """Return a scorer whose weight of one feature is larger by a number of log-odds."""
        linear = self.linear.copy()
        linear[FEATURES.index(feature)] += by
        return replace(self, linear=linear)


def log_softmax(scores: Floats) -> npt.NDArray[np.float64]:
    """Return log-probabilities, in double precision so that they sum to 1."""
    values = scores.astype(np.float64)
    values -= values.max()
    logs: npt.NDArray[np.float64] = values - np.log(np.exp(values).sum())
    return logs
