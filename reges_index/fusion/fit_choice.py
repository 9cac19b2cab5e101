"""Fitting the final choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from reges_index.errors import TrainingError
from reges_index.fusion.choice import ChoiceWeights, combine

__all__ = ["Choice", "cross_fit", "fit_choice"]

_STEPS = 100


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


def fit_choice(choices: Sequence[Choice]) -> ChoiceWeights:
    """Fit both weights by maximum likelihood on turns whose candidates hold a target.

    Without log-probabilities only the retrieval's weight (a temperature) is fitted.

    Raises
    ------
    TrainingError
        If no turn has a target among its candidates, or the weights become no numbers.
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
    if not torch.isfinite(weights).all():
        raise TrainingError(
            "the weights of the final choice are no numbers",
            hint="check that all probabilities and log-probabilities are finite",
        )
    retrieval, model = weights.detach().tolist()
    return ChoiceWeights(retrieval=retrieval, model=model)


def cross_fit(choices: Sequence[Choice], folds: int = 5) -> list[list[float]]:
    """Return each turn's probabilities by weights that were fitted on other dialogues.

    Raises
    ------
    TrainingError
        If the turns with a target are of one fold only, as they are where there is only one dialogue.
    """
    names = {name: n for n, name in enumerate(dict.fromkeys(choice.dialogue for choice in choices))}
    its = np.array([names[choice.dialogue] % folds for choice in choices])
    teaching = {int(fold) for choice, fold in zip(choices, its, strict=True) if any(choice.targets)}
    if len(teaching) == 1:
        raise TrainingError(
            "all turns with a target among their candidates are of one dialogue, or of one fold's dialogues; "
            "none is left to fit the weights that they are judged by",
            hint="give turns of more dialogues",
        )
    made: dict[int, list[float]] = {}
    for fold in range(folds):
        inside = np.flatnonzero(its == fold)
        if len(inside):
            weights = fit_choice([choice for choice, f in zip(choices, its, strict=True) if f != fold])
            for row in inside.tolist():
                made[row] = combine(weights, choices[row].retrieval, choices[row].logprobs)
    return [made[row] for row in range(len(choices))]
