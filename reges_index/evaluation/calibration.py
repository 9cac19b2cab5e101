"""Whether a probability means something, and what an item expert's word weighs beside the retriever's.

What is stated of the first item is compared with how often it is right; the weight is fitted on predictions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from reges_index.dialogue import Turn
from reges_index.errors import InputError
from reges_index.evaluation.data import EvaluationData
from reges_index.evaluation.predictions import AlignedPredictions, Prediction
from reges_index.item_expert.prior import combine

BINS = 10
_FLOOR = 1e-9
_LARGEST = 20.0


class Bin(NamedTuple):
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

    Turns of one of the T ``dialogues`` are drawn together; the other options are of the interval.
    """
    said, true = np.asarray(stated, dtype=np.float64), np.asarray(right, dtype=np.float64)
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
    rows = [
        (float(made.probabilities[0]), ranking[0] in turn.targets, turn.dialog_id or turn.id)
        for turn, ranking, made in zip(data.turns, system.rankings, system.predictions, strict=True)
        if made and made.probabilities and made.probabilities[0] is not None and ranking and turn.targets
    ]
    if not rows:
        return None
    stated, right, dialogues = zip(*rows, strict=True)
    return calibrate(stated, right, dialogues, resamples=min(resamples, 1_000), seed=seed, level=level)


# -- the weight of an item expert -----------------------------------------------------------------------


class PriorCase(NamedTuple):
    """What the retriever and the model say of the candidates of one turn, and which of them was right.

    The model's word is in nats; a constant added to all changes nothing. No place is right where none of the
    right items is among the candidates. Turns of one dialogue stay together in cross-fitting.
    """

    prior: tuple[float, ...]
    evidence: tuple[float, ...]
    right: frozenset[int]
    dialogue: str


class PriorWeight(NamedTuple):
    """A fitted weight, and how well the first item's probability is stated.

    Before with the weight that the predictions were made with, after with weights that were fitted on other
    dialogues than the turn's.
    """

    weight: float
    before: Calibration
    after: Calibration


def cases_of(predictions: Iterable[Prediction], turns: Sequence[Turn]) -> tuple[list[PriorCase], float]:
    """Return the cases in predictions by `reges predict`, and the weight that these were made with.

    Raises
    ------
    InputError
        If there are none with the retriever's probabilities and a weight above 0, or with several weights.
    """
    by_id = {turn.id: turn for turn in turns}
    cases: list[PriorCase] = []
    weights: set[float] = set()
    for made in predictions:
        extra = made.model_extra or {}
        prior, weight = extra.get("prior"), extra.get("prior_weight")
        turn = by_id.get(made.id)
        chances = [chance for chance in made.probabilities or () if chance is not None]
        if turn is None or not turn.targets or not prior or not weight or len(chances) != len(prior):
            continue
        weights.add(float(weight))
        logs = [
            (math.log(max(p, _FLOOR)) - math.log(max(q, _FLOOR))) / weight
            for p, q in zip(chances, prior, strict=True)
        ]
        right = frozenset(n for n, id_ in enumerate(made.ranking[: len(prior)]) if id_ in set(turn.targets))
        cases.append(PriorCase(tuple(prior), tuple(logs), right, turn.dialog_id or turn.id))
    if not cases or len(weights) > 1:
        what = f"several weights ({sorted(weights)})" if weights else "no turn with prior, weight and target"
        raise InputError(
            f"the weight cannot be fitted: the predictions hold {what}",
            hint="make them in one run of `reges predict` with a retriever of probabilities (the fusion), an "
            "LLM and a prior_weight above 0, for the same conversations",
        )
    return cases, weights.pop()


def fit_prior_weight(cases: Sequence[PriorCase], used: float, *, folds: int = 5) -> PriorWeight:
    """Fit the weight by maximum likelihood of the right candidates, cross-fitted over dialogues.

    Parameters
    ----------
    used
        The weight that the predictions were made with.
    folds
        Into how many parts the dialogues go.

    Raises
    ------
    InputError
        If the right item is among the candidates in no turn, or there are fewer dialogues than folds.
    """
    names = sorted({case.dialogue for case in cases})
    if len(names) < folds or not any(case.right for case in cases):
        raise InputError(
            f"{len(names)} dialogues, {sum(bool(case.right) for case in cases)} turns with the right item "
            "among the candidates: too few to fit a weight",
            hint=f"give predictions for {folds} dialogues or more",
        )
    fold_of = {name: place % folds for place, name in enumerate(names)}
    fitted = [_fit([case for case in cases if fold_of[case.dialogue] != fold]) for fold in range(folds)]
    return PriorWeight(
        weight=_fit(cases),
        before=_stated(cases, [used] * len(cases)),
        after=_stated(cases, [fitted[fold_of[case.dialogue]] for case in cases]),
    )


def _fit(cases: Sequence[PriorCase]) -> float:
    told = [case for case in cases if case.right]
    if not told:
        return 0.0

    def loss(weight: float) -> float:
        total = 0.0
        for case in told:
            chances = combine(case.prior, case.evidence, weight)
            total -= math.log(max(_FLOOR, math.fsum(chances[place] for place in case.right)))
        return total

    return float(minimize_scalar(loss, bounds=(0.0, _LARGEST), method="bounded").x)


def _stated(cases: Sequence[PriorCase], weights: Sequence[float]) -> Calibration:
    stated, right = [], []
    for case, weight in zip(cases, weights, strict=True):
        chances = combine(case.prior, case.evidence, weight)
        first = max(range(len(chances)), key=lambda place: (chances[place], -place))
        stated.append(chances[first])
        right.append(float(first in case.right))
    return calibrate(stated, right, [case.dialogue for case in cases])
