"""Whether stated probabilities mean what they say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reges_index.errors import TrainingError

__all__ = ["BINS", "Calibration", "calibration"]

BINS = 10


@dataclass(frozen=True)
class Calibration:
    """How far stated probabilities are from what happened.

    Attributes
    ----------
    error
        Expected calibration error: the mean distance of stated probability and share of hits over the bins,
        weighed by their turns (Guo et al. 2017, arXiv 1706.04599).
    bins
        For each bin that holds a turn: mean stated probability, share of hits, number of turns. Bins hold
        equally many turns, since most probabilities are small.
    """

    error: float
    bins: tuple[tuple[float, float, int], ...]


def calibration(stated: npt.ArrayLike, hits: npt.ArrayLike, bins: int = BINS) -> Calibration:
    """Compare stated probabilities with hits, both of length T.

    Raises
    ------
    TrainingError
        If there is nothing to compare.
    """
    said: npt.NDArray[np.float64] = np.asarray(stated, dtype=np.float64)
    if not len(said):
        raise TrainingError("no probabilities to calibrate", hint="give at least one turn")
    order = np.argsort(said, kind="stable")
    said, true = said[order], np.asarray(hits, dtype=np.float64)[order]
    groups = [group for group in np.array_split(np.arange(len(said)), bins) if len(group)]
    rows = tuple((float(said[g].mean()), float(true[g].mean()), len(g)) for g in groups)
    error = sum(abs(mean - share) * count for mean, share, count in rows) / len(said)
    return Calibration(float(error), rows)
