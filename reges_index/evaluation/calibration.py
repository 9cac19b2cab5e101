"""Whether a probability means something: what is stated of the first item, and how often it is right."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from reges_index.evaluation.data import EvaluationData
from reges_index.evaluation.predictions import AlignedPredictions

__all__ = ["BINS", "Bin", "Calibration", "calibrate", "calibration_of"]

BINS = 10


@dataclass(frozen=True)
class Bin:
    """Turns whose stated probability is about the same: its mean, the share that was right, their number."""

    stated: float
    right: float
    turns: int


@dataclass(frozen=True)
class Calibration:
    """Stated probabilities of the first item against what was right.

    Attributes
    ----------
    turns
        Those with a probability.
    stated, right
        Means over them.
    error
        Expected calibration error: mean distance of stated and right over the bins, weighted by turns
        (Guo et al. 2017, arXiv 1706.04599).
    low, high
        Its bootstrap interval over dialogues. The error is 0 or more, so noise alone makes it larger than 0.
    bins
        From the least to the most certain.
    """

    turns: int
    stated: float
    right: float
    error: float
    low: float
    high: float
    bins: tuple[Bin, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {**asdict(self), "bins": [asdict(b) for b in self.bins]}


def calibrate(
    stated: npt.ArrayLike,
    right: npt.ArrayLike,
    dialogues: npt.ArrayLike,
    *,
    resamples: int = 1_000,
    seed: int = 0,
    level: float = 0.95,
) -> Calibration:
    """Compare T stated probabilities with T outcomes of 0 or 1.

    Parameters
    ----------
    dialogues
        T numbers; turns of one dialogue are drawn together.
    resamples, seed, level
        Of the interval.

    Raises
    ------
    ValueError
        If there is no turn.
    """
    said, true = np.asarray(stated, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if not len(said):
        raise ValueError("no stated probability")
    _, cluster = np.unique(np.asarray(dialogues), return_inverse=True)
    members = [np.flatnonzero(cluster == c) for c in range(cluster.max() + 1)]
    rng = np.random.default_rng(seed)
    errors = []
    for _ in range(resamples):
        drawn = np.concatenate([members[c] for c in rng.integers(len(members), size=len(members))])
        errors.append(_error(_bins(said[drawn], true[drawn])))
    low, high = np.quantile(errors, [(1 - level) / 2, (1 + level) / 2])
    bins = _bins(said, true)
    return Calibration(
        len(said), float(said.mean()), float(true.mean()), _error(bins), float(low), float(high), bins
    )


def _bins(said: npt.NDArray[np.float64], true: npt.NDArray[np.float64]) -> tuple[Bin, ...]:
    """Return bins of equally many turns each, since most probabilities are small."""
    order = np.argsort(said, kind="stable")
    groups = [group for group in np.array_split(order, BINS) if len(group)]
    return tuple(Bin(float(said[g].mean()), float(true[g].mean()), len(g)) for g in groups)


def _error(bins: tuple[Bin, ...]) -> float:
    return sum(abs(its.stated - its.right) * its.turns for its in bins) / sum(its.turns for its in bins)


def calibration_of(
    system: AlignedPredictions, data: EvaluationData, *, resamples: int, seed: int, level: float
) -> Calibration | None:
    """Judge a system's probability of the first item of its ranking; None where it states none.

    A turn counts as right if the item is one of its targets, whether mentioned before or not. A turn without
    any target is left out, as it is of every denominator: nobody can say what would have been right there.
    """
    stated: list[float] = []
    right: list[bool] = []
    dialogues: list[str] = []
    for turn, ranking, prediction in zip(data.turns, system.rankings, system.predictions, strict=True):
        first = prediction.probabilities[0] if prediction and prediction.probabilities else None
        if first is None or not ranking or not turn.targets:
            continue
        stated.append(float(first))
        right.append(ranking[0] in turn.targets)
        dialogues.append(turn.dialog_id or turn.id)
    if not stated:
        return None
    return calibrate(stated, right, dialogues, resamples=min(resamples, 1_000), seed=seed, level=level)
