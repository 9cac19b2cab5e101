"""Fitting the final choice, and measuring whether its probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from reges_index.errors import TrainingError
from reges_index.fusion.choice import ChoiceWeights, combine

__all__ = ["Calibration", "Choice", "calibration", "cross_fit", "fit_choice"]

_STEPS = 100
_BINS = 10


@dataclass(frozen=True)
class Choice:
    """One turn's candidates, n of them, as the final choice sees them.

    Attributes
    ----------
    dialogue
        Its dialogue; folds keep dialogues whole.
    retrieval
        Probabilities by `FusionRetriever`.
    logprobs
        By LLM_G, in nats; None where it was not asked.
    targets
        Which candidates are right; none where retrieval missed.
    """

    dialogue: str
    retrieval: tuple[float, ...]
    logprobs: tuple[float, ...] | None
    targets: tuple[bool, ...]


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


def fit_choice(choices: Sequence[Choice]) -> ChoiceWeights:
    """Fit both weights by maximum likelihood on turns whose candidates hold a target.

    Without log-probabilities only the retrieval's weight (a temperature) is fitted.

    Raises
    ------
    TrainingError
        If no turn has a target among its candidates.
    """
    usable = [choice for choice in choices if any(choice.targets)]
    if not usable:
        raise TrainingError(
            f"none of {len(choices)} turns has a target among its candidates",
            hint="raise similarity_top_k, or check that targets are ids of the catalog",
        )
    longest = max(len(choice.targets) for choice in usable)
    values = torch.zeros(len(usable), longest, 2, dtype=torch.float64)
    barred = torch.ones(len(usable), longest, dtype=torch.bool)
    targets = torch.zeros(len(usable), longest, dtype=torch.float64)
    for row, choice in enumerate(usable):
        count = len(choice.targets)
        barred[row, :count] = False
        targets[row, :count] = torch.tensor(choice.targets, dtype=torch.float64)
        values[row, :count, 0] = torch.tensor(choice.retrieval, dtype=torch.float64).clamp(min=1e-9).log()
        if choice.logprobs is not None:
            values[row, :count, 1] = torch.log_softmax(torch.tensor(choice.logprobs, dtype=torch.float64), 0)
    targets /= targets.sum(1, keepdim=True)
    weights = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        scores = (values @ weights).masked_fill(barred, -1e9)
        loss = (torch.logsumexp(scores, 1) - (scores * targets).sum(1)).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    retrieval, model = weights.detach().tolist()
    return ChoiceWeights(retrieval=retrieval, model=model)


def cross_fit(choices: Sequence[Choice], folds: int = 5) -> list[list[float]]:
    """Return each turn's probabilities by weights that were fitted on other dialogues."""
    names = {name: n for n, name in enumerate(dict.fromkeys(choice.dialogue for choice in choices))}
    its = np.array([names[choice.dialogue] % folds for choice in choices])
    made: dict[int, list[float]] = {}
    for fold in range(folds):
        inside = np.flatnonzero(its == fold)
        if len(inside):
            weights = fit_choice([choice for choice, f in zip(choices, its, strict=True) if f != fold])
            for row in inside.tolist():
                made[row] = combine(weights, choices[row].retrieval, choices[row].logprobs)
    return [made[row] for row in range(len(choices))]


def calibration(stated: Sequence[float], hits: Sequence[bool], bins: int = _BINS) -> Calibration:
    """Compare stated probabilities with hits, both of length T.

    Raises
    ------
    TrainingError
        If there is nothing to compare.
    """
    if not stated:
        raise TrainingError("no probabilities to calibrate", hint="give at least one turn")
    order = np.argsort(np.asarray(stated), kind="stable")
    said: npt.NDArray[np.float64] = np.asarray(stated, dtype=np.float64)[order]
    true: npt.NDArray[np.float64] = np.asarray(hits, dtype=np.float64)[order]
    groups = [group for group in np.array_split(np.arange(len(said)), bins) if len(group)]
    rows = tuple((float(said[g].mean()), float(true[g].mean()), len(g)) for g in groups)
    error = sum(abs(mean - share) * count for mean, share, count in rows) / len(said)
    return Calibration(float(error), rows)
