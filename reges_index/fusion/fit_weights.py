"""Learning what each feature weighs: softmax over candidates, on features that were made out of fold."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from reges_index.errors import TrainingError
from reges_index.fusion.features import FEATURES
from reges_index.fusion.scorer import Scorer

__all__ = [
    "Example",
    "Packed",
    "WeightTraining",
    "adjust_repeats",
    "fit_weights",
    "make_example",
    "pair_ranks",
]

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

_LISTS = (
    *("adapted", "dense_dialogue", "dense_last", "dense_query", "dense_named"),
    *("bm25_dialogue", "bm25_last", "together", "people_named", "genre_asked", "recommended"),
)
"""Features whose best items become candidates; every feature then sees all of them."""

# Log-odds that `adjust_repeats` looks among, and how often it halves them: to within 0.001.
_SHIFTS = (-6.0, 6.0)
_HALVINGS = 14


@dataclass(frozen=True)
class WeightTraining:
    """Settings of `fit_scorer`, chosen by cross-validation (finetune/FUSION.md).

    Attributes
    ----------
    l2
        On weights of features scaled to unit deviation.
    new_share
        Share of the loss that leaves named items out of softmax and targets (the protocol ``new``).
    repeat_share
        What share of recommendations repeats a named item where the model will be used; None leaves it at
        the train sets'. Labels differ in it: 7 % in these train sets, one in six in the data as a whole. One
        that cannot be reached changes nothing; see `adjust_repeats`.
    best, random
        Candidates by each list of `_LISTS`, and at random from the rest.
    iterations
        Of L-BFGS.
    hidden
        Units of `fit_scorer`'s correction; 0 leaves the weighted sum as it is.
    networks
        Corrections that are learnt from different first weights; the mean of all is used.
    epochs, batch_size, learning_rate, weight_decay, dropout
        Of the correction, by AdamW with a one-cycle schedule.
    """

    l2: float = 1e-2
    new_share: float = 0.3
    repeat_share: float | None = 1 / 6
    best: int = 60
    random: int = 150
    iterations: int = 60
    hidden: int = 48
    networks: int = 1
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    dropout: float = 0.3


@dataclass(frozen=True)
class Example:
    """Candidates of one turn, C of them.

    Attributes
    ----------
    items
        Shape (C,): catalog positions.
    features
        Shape (C, F).
    targets, named
        Shape (C,): which are targets, and which the dialogue has named.
    log_counts
        Shape (C,): log of how many items of the catalog a candidate stands for; more than 0 for the random
        ones, so that the softmax is over the whole catalog.
    """

    items: npt.NDArray[np.int64]
    features: Floats
    targets: npt.NDArray[np.bool_]
    named: npt.NDArray[np.bool_]
    log_counts: Floats


def make_example(
    matrix: Floats,
    targets: Sequence[int],
    named: Collection[int],
    settings: WeightTraining,
    rng: np.random.Generator,
) -> Example:
    """Pick the candidates of a turn from its whole feature matrix, shape (N, F)."""
    size = len(matrix)
    best = min(settings.best, size)
    kept = {*targets, *named}
    for name in _LISTS:
        column = matrix[:, FEATURES.index(name)]
        if column.any():
            kept.update(np.argpartition(-column, best - 1)[:best].tolist())
    rest = np.setdiff1d(np.arange(size), list(kept))
    drawn = rng.choice(rest, min(settings.random, len(rest)), replace=False)
    items = np.concatenate([np.array(sorted(kept), dtype=np.int64), drawn])
    log_counts = np.zeros(len(items), dtype=np.float32)
    if len(drawn):
        log_counts[-len(drawn) :] = np.log(len(rest) / len(drawn))
    return Example(items, matrix[items], np.isin(items, targets), np.isin(items, list(named)), log_counts)


@dataclass(frozen=True)
class Packed:
    """E examples with a target as tensors, padded to C candidates.

    Attributes
    ----------
    features
        Shape (E, C, F), scaled to unit deviation; a feature without weight is 0 everywhere.
    offsets
        Shape (E, C): `Example.log_counts`, and far below 0 where there is no candidate.
    targets
        Shape (E, C), 1 for targets.
    named
        Shape (E, C).
    scale
        Shape (F,): what the features were multiplied with.
    """

    features: torch.Tensor
    offsets: torch.Tensor
    targets: torch.Tensor
    named: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def of(cls, examples: Sequence[Example], *, without: Collection[str] = ()) -> Packed:
        """Pack examples; ``without`` names features that get no weight.

        Raises
        ------
        TrainingError
            If no example has a target.
        """
        usable = [example for example in examples if example.targets.any()]
        if not usable:
            raise TrainingError(
                f"none of {len(examples)} turns to learn from has a target",
                hint="give train turns of more dialogues whose targets are in the catalog",
            )
        shape = (len(usable), max(len(example.items) for example in usable))
        features = torch.zeros(*shape, len(FEATURES))
        offsets = torch.full(shape, -1e9)
        targets, named = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
        for row, example in enumerate(usable):
            count = len(example.items)
            features[row, :count] = torch.from_numpy(example.features)
            offsets[row, :count] = torch.from_numpy(example.log_counts)
            targets[row, :count] = torch.from_numpy(example.targets.astype(np.float32))
            named[row, :count] = torch.from_numpy(example.named)
        deviation = features.reshape(-1, len(FEATURES)).std(0)
        columns = (deviation > 1e-4) & torch.tensor([name not in without for name in FEATURES])
        scale = torch.where(columns, 1 / deviation.clamp(min=1e-4), torch.zeros(()))
        features *= scale
        return cls(features, offsets, targets, named, scale)

    def rows(self, rows: torch.Tensor) -> Packed:
        """Return some of the examples."""
        return Packed(
            self.features[rows], self.offsets[rows], self.targets[rows], self.named[rows], self.scale
        )

    def loss(self, scores: torch.Tensor, new_share: float) -> torch.Tensor:
        """Return the cross-entropy of scores of shape (E, C), part of it without named items."""
        scores = scores + self.offsets
        loss = (1 - new_share) * _cross_entropy(scores, self.targets).mean()
        fresh = self.targets * ~self.named
        has = fresh.sum(1) > 0
        if has.any():
            left = scores.masked_fill(self.named, -1e9)
            loss = loss + new_share * _cross_entropy(left[has], fresh[has]).mean()
        return loss


def fit_weights(packed: Packed, settings: WeightTraining) -> torch.Tensor:
    """Return the weight of each scaled feature, shape (F,), by listwise softmax regression."""
    weights = torch.zeros(len(FEATURES), requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=settings.iterations, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = packed.loss(packed.features @ weights, settings.new_share)
        value = value + settings.l2 * (weights**2).sum()
        value.backward()
        return value

    optimizer.step(closure)
    return weights.detach()


def adjust_repeats(examples: Sequence[Example], scorer: Scorer, share: float) -> Scorer:
    """Return a scorer whose mean probability of all named items is ``share``, by moving one log-odds.

    Where that is out of reach (too few turns name an item, or all else speaks against the named ones), the
    very scorer comes back, and a warning says so: moved as far as it goes, it would name them everywhere.
    """
    column = FEATURES.index("is_named")
    scored = [(scorer(its.features) + its.log_counts, its.features[:, column], its.named) for its in examples]
    low, high = _SHIFTS
    most = _named_mass(scored, high)
    if most < share:
        logger.warning(
            "repeat_share: named items cannot get %.1f %% of the probability, at most %.1f %% in these "
            "turns; their weight stays as learnt",
            *(100 * share, 100 * most),
        )
        return scorer
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _named_mass(scored, middle) < share:
            low = middle
        else:
            high = middle
    return scorer.shifted("is_named", middle)


def _named_mass(scored: Sequence[tuple[Floats, Floats, npt.NDArray[np.bool_]]], shift: float) -> float:
    masses = []
    for scores, is_named, named in scored:
        moved = (scores + shift * is_named).astype(np.float64)
        masses.append(np.exp(moved - np.logaddexp.reduce(moved))[named].sum())
    return float(np.mean(masses))


def _cross_entropy(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.logsumexp(scores, 1) - (scores * targets).sum(1) / targets.sum(1).clamp(min=1)


def pair_ranks(example: Example, scorer: Scorer, *, new: bool = False) -> list[int]:
    """Return the rank of each target among the candidates, from 1; with ``new``, without named items."""
    scores = scorer(example.features)
    rivals = ~example.named if new else np.ones(len(scores), dtype=bool)
    return [
        int((scores[rivals] > scores[place]).sum()) + 1
        for place in np.flatnonzero(example.targets)
        if rivals[place]
    ]
