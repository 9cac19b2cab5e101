"""Fitting a fusion: statistics out of fold, features of each turn, and the scorer on top of them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from reges_index.catalog.item import Item
from reges_index.dialogue import Turn
from reges_index.errors import TrainingError
from reges_index.fusion.features import FEATURES, CatalogSources, QueryVectors
from reges_index.fusion.model import FusionModel
from reges_index.fusion.scorer import Scorer
from reges_index.fusion.state import DialogueState
from reges_index.fusion.statistics import ItemStatistics, Observation

__all__ = ["Example", "ScorerTraining", "TrainSet", "fit_fusion", "fit_scorer", "make_examples", "recalls"]

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

# Features whose best items become candidates; every feature then sees all of them.
_LISTS = (
    "dialogue",
    "last_message",
    "bm25_share",
    "together",
    "people_named",
    "recommended",
)
_IS_NAMED = FEATURES.index("is_named")
# Log-odds that `_adjust_repeats` looks among, and how often it halves them: to within 0.001.
_SHIFTS = (-6.0, 6.0)
_HALVINGS = 14


@dataclass(frozen=True)
class ScorerTraining:
    """Settings of `fit_scorer`, chosen by cross-validation (finetune/FUSION.md).

    Attributes
    ----------
    l2
        On weights of features scaled to unit deviation.
    new_share
        Share of the loss that leaves named items out of softmax and targets (the protocol ``new``).
    repeat_share
        What share of recommendations repeats a named item where statistics are known; None leaves it at the
        train sets'. Labels differ in it: 7 % in the train sets, one in six in the data as a whole.
    unknown_share
        How much turns of catalogs with statistics count once more as turns of a catalog without any.
    newest
        Log-odds by which likeness to the newest message weighs more than was learnt. Dialogues that change
        the topic are rare among those that are learnt from, and people who do so are lost otherwise. Chosen
        on the dev sets and on ``reges evaluate --experiment topic_change``.
    best, random
        Candidates by each list, and at random from the rest.
    iterations
        Of L-BFGS for the weighted sum.
    hidden, networks
        Units of the correction (0 leaves the weighted sum as it is), and corrections from different first
        weights of which the mean is used.
    epochs, batch_size, learning_rate, weight_decay, dropout
        Of the correction, by AdamW with a one-cycle schedule.
    """

    l2: float = 1e-2
    new_share: float = 0.5
    repeat_share: float | None = 1 / 6
    unknown_share: float = 0.5
    newest: float = 4.0
    best: int = 60
    random: int = 150
    iterations: int = 60
    hidden: int = 0
    networks: int = 4
    epochs: int = 8
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 3e-2
    dropout: float = 0.3


@dataclass
class TrainSet:
    """The turns of one data set, read once.

    Attributes
    ----------
    name
        For reports only; nothing is decided by it.
    turns
        T turns, in the order of time as far as the file has one.
    sources
        The catalog, with empty statistics.
    vectors
        Of each turn.
    fit_from
        The scorer is fitted on the dialogues behind this share of them: the encoder has not seen those.
    counted
        Whether its dialogues count as statistics.
    states, targets
        Of each turn: its state, and catalog positions of its targets, those outside the catalog left out.
    """

    name: str
    turns: Sequence[Turn]
    sources: CatalogSources
    vectors: list[QueryVectors]
    fit_from: float = 0.0
    counted: bool = True
    states: list[DialogueState] = field(init=False)
    targets: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        place = {item.id: n for n, item in enumerate(self.sources.items)}
        self.states = [self.sources.reader.read(turn.chat) for turn in self.turns]
        self.targets = [[place[t] for t in dict.fromkeys(turn.targets) if t in place] for turn in self.turns]

    @property
    def places(self) -> npt.NDArray[np.float64]:
        """Return where each turn's dialogue lies among all, from 0 to below 1."""
        names = {key: n for n, key in enumerate(dict.fromkeys(t.dialog_id or t.id for t in self.turns))}
        return np.array([names[t.dialog_id or t.id] / max(1, len(names)) for t in self.turns])

    def observations(self, rows: Sequence[int]) -> list[Observation]:
        """Return what the dialogues of these turns say about items, one observation a dialogue."""
        items: Sequence[Item] = self.sources.items
        named: dict[str, dict[int, None]] = {}
        recommended: dict[str, list[int]] = {}
        for row in rows:
            key = self.turns[row].dialog_id or self.turns[row].id
            sure = [n.item for n in self.states[row].named if n.certainty == 1]
            named.setdefault(key, {}).update(dict.fromkeys([*sure, *self.targets[row]]))
            recommended.setdefault(key, []).extend(self.targets[row])
        count = len(named)
        return [
            Observation(
                tuple(items[i] for i in named[key]),
                tuple(items[i] for i in recommended[key]),
                age=1 - (number + 1) / count,
            )
            for number, key in enumerate(named)
        ]


@dataclass(frozen=True)
class Example:
    """Candidates of one turn, C of them.

    Attributes
    ----------
    features
        Shape (C, F).
    targets, named
        Shape (C,): which are targets, and which the dialogue has named.
    log_counts
        Shape (C,): log of how many items of the catalog a candidate stands for; more than 0 for the random
        ones, so that the softmax is over the whole catalog.
    weight
        What the turn counts.
    known
        Whether statistics of the catalog were there.
    group
        Of which data set.
    """

    features: Floats
    targets: npt.NDArray[np.bool_]
    named: npt.NDArray[np.bool_]
    log_counts: Floats
    weight: float
    known: bool
    group: str


def make_examples(sets: Sequence[TrainSet], settings: ScorerTraining, *, folds: int = 3) -> list[Example]:
    """Make the features of all turns to fit on, with statistics of other dialogues.

    Sets with statistics count as much as those without, whatever their sizes.

    Raises
    ------
    TrainingError
        If no turn to fit on has a target in its catalog.
    """
    rng = np.random.default_rng(0)
    nothing = ItemStatistics.count([])
    found: list[Example] = []
    for train in sets:
        places = train.places
        blocks = (
            (places * folds).astype(int) if train.fit_from <= 0 else (places >= train.fit_from).astype(int)
        )
        rows = [n for n in range(len(train.turns)) if places[n] >= train.fit_from and train.targets[n]]
        kinds: list[tuple[bool, float]] = [(False, 1.0)]
        if train.counted:
            kinds = [(True, 1.0), (False, settings.unknown_share)]
        bound: dict[int, CatalogSources] = {}
        for row in rows:
            for known, weight in kinds:
                if not weight:
                    continue
                block = int(blocks[row]) if known else -1
                if block not in bound:
                    outside = np.flatnonzero(blocks != block).tolist() if known else []
                    seen = ItemStatistics.count(train.observations(outside)) if known else nothing
                    bound[block] = train.sources.with_statistics(seen)
                matrix = bound[block].features(
                    train.turns[row].chat, train.vectors[row], state=train.states[row]
                )
                found.append(_example(train, row, matrix, settings, rng, weight, known))
        logger.info("features of %s: %d turns", train.name, len(rows))
    if not found:
        raise TrainingError(
            "no turn to fit a fusion on has a target in its catalog",
            hint="give train turns whose targets are in the catalog",
        )
    return found


def _example(
    train: TrainSet,
    row: int,
    matrix: Floats,
    settings: ScorerTraining,
    rng: np.random.Generator,
    weight: float,
    known: bool,
) -> Example:
    """Pick the candidates of a turn from its whole feature matrix, shape (N, F)."""
    size, targets = len(matrix), train.targets[row]
    named = {item.item for item in train.states[row].named}
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
    is_target, is_named = np.isin(items, targets), np.isin(items, list(named))
    return Example(matrix[items], is_target, is_named, log_counts, weight, known, train.name)


@dataclass(frozen=True)
class _Packed:
    """E examples as tensors, padded to C candidates; features scaled to unit deviation."""

    features: torch.Tensor
    offsets: torch.Tensor
    targets: torch.Tensor
    named: torch.Tensor
    weights: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def of(cls, examples: Sequence[Example], without: Collection[str]) -> _Packed:
        usable = [example for example in examples if example.targets.any()]
        shape = (len(usable), max(len(example.targets) for example in usable))
        features = torch.zeros(*shape, len(FEATURES))
        offsets = torch.full(shape, -1e9)
        targets, named = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
        for row, example in enumerate(usable):
            count = len(example.targets)
            features[row, :count] = torch.from_numpy(example.features)
            offsets[row, :count] = torch.from_numpy(example.log_counts)
            targets[row, :count] = torch.from_numpy(example.targets.astype(np.float32))
            named[row, :count] = torch.from_numpy(example.named)
        deviation = features.reshape(-1, len(FEATURES)).std(0)
        columns = (deviation > 1e-4) & torch.tensor([name not in without for name in FEATURES])
        scale = torch.where(columns, 1 / deviation.clamp(min=1e-4), torch.zeros(()))
        weights = torch.tensor([example.weight for example in usable])
        return cls(features * scale, offsets, targets, named, weights, scale)

    def rows(self, rows: torch.Tensor) -> _Packed:
        return _Packed(
            self.features[rows],
            self.offsets[rows],
            self.targets[rows],
            self.named[rows],
            self.weights[rows],
            self.scale,
        )

    def loss(self, scores: torch.Tensor, new_share: float) -> torch.Tensor:
        """Return the cross-entropy of scores of shape (E, C), part of it without named items."""
        scores = scores + self.offsets
        loss = (1 - new_share) * _mean(_cross_entropy(scores, self.targets), self.weights)
        fresh = self.targets * ~self.named
        has = fresh.sum(1) > 0
        if has.any():
            left = scores.masked_fill(self.named, -1e9)
            loss = loss + new_share * _mean(_cross_entropy(left[has], fresh[has]), self.weights[has])
        return loss


def _mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (values * weights).sum() / weights.sum()


def _cross_entropy(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.logsumexp(scores, 1) - (scores * targets).sum(1) / targets.sum(1).clamp(min=1)


def fit_scorer(
    examples: Sequence[Example], settings: ScorerTraining, *, without: Collection[str] = (), seed: int = 0
) -> Scorer:
    """Return a scorer by listwise softmax: the weighted sum first, then the correction on top of it.

    Parameters
    ----------
    without
        Features that get no weight.
    seed
        Of the hidden units' first weights, the dropout and the order of examples.

    Raises
    ------
    TrainingError
        If no example has a target.
    """
    if not any(example.targets.any() for example in examples):
        raise TrainingError(
            f"none of {len(examples)} turns to learn from has a target",
            hint="give train turns of more dialogues whose targets are in the catalog",
        )
    packed = _Packed.of(examples, without)
    linear = _weighted_sum(packed, settings)
    scorer = Scorer.weighted((linear * packed.scale).numpy())
    if settings.hidden and settings.networks:
        scorer = Scorer.mean(
            [_corrected(packed, linear, settings, seed + n) for n in range(settings.networks)]
        )
    if settings.repeat_share is not None and "is_named" not in without:
        known = [example for example in examples if example.known]
        scorer = _adjust_repeats(known, scorer, settings.repeat_share) if known else scorer
    return scorer if "last_message" in without else scorer.shifted("last_message", settings.newest)


def _weighted_sum(packed: _Packed, settings: ScorerTraining) -> torch.Tensor:
    weights = torch.zeros(len(FEATURES), requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=settings.iterations, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = packed.loss(packed.features @ weights, settings.new_share) + settings.l2 * (weights**2).sum()
        value.backward()
        return value

    optimizer.step(closure)
    return weights.detach()


class _Network(torch.nn.Module):
    def __init__(self, linear: torch.Tensor, settings: ScorerTraining) -> None:
        super().__init__()
        self.linear = torch.nn.Parameter(linear.clone())
        self.units = torch.nn.Linear(len(FEATURES), settings.hidden)
        # It begins as the weighted sum: the correction is 0 until it has learnt something.
        self.out = torch.nn.Parameter(torch.zeros(settings.hidden))
        self.dropout = torch.nn.Dropout(settings.dropout)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        correction = self.dropout(torch.tanh(self.units(features))) @ self.out
        scores: torch.Tensor = features @ self.linear + correction
        return scores


def _corrected(packed: _Packed, linear: torch.Tensor, settings: ScorerTraining, seed: int) -> Scorer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _Network(linear, settings)
        groups: list[dict[str, Any]] = [
            {"params": [network.linear], "weight_decay": 0.0},
            {"params": [*network.units.parameters(), network.out], "weight_decay": settings.weight_decay},
        ]
        optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
        count = len(packed.features)
        steps = settings.epochs * -(-count // settings.batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=steps)
        for _ in range(settings.epochs):
            for rows in torch.randperm(count).split(settings.batch_size):
                batch = packed.rows(rows)
                loss = batch.loss(network(batch.features), settings.new_share)
                loss = loss + settings.l2 * (network.linear**2).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    scale = packed.scale
    return Scorer(
        linear=(network.linear.detach() * scale).numpy(),
        hidden=np.ascontiguousarray((network.units.weight.detach() * scale).T.numpy()),
        offset=network.units.bias.detach().numpy(),
        out=network.out.detach().numpy(),
    )


def _adjust_repeats(examples: Sequence[Example], scorer: Scorer, share: float) -> Scorer:
    """Return a scorer whose mean probability of all named items is ``share``, by moving one log-odds.

    Where that is out of reach (too few turns name an item) the very scorer comes back, with a warning.
    """
    scored = [
        (scorer(its.features) + its.log_counts, its.features[:, _IS_NAMED], its.named) for its in examples
    ]
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


def recalls(judged: Sequence[tuple[Example, Scorer]], *, new: bool = False) -> dict[str, float | None]:
    """Return recall at 1, 5, 10 and 50 of targets among the candidates; with ``new``, without named items."""
    ranks: list[int] = []
    for example, scorer in judged:
        scores = scorer(example.features)
        rivals = ~example.named if new else np.ones(len(scores), dtype=bool)
        ranks += [
            int((scores[rivals] > scores[place]).sum()) + 1
            for place in np.flatnonzero(example.targets)
            if rivals[place]
        ]
    found: dict[str, float | None] = {"pairs": len(ranks)}
    for k in (1, 5, 10, 50):
        found[f"recall@{k}"] = float(np.mean(np.array(ranks) <= k)) if ranks else None
    return found


def fit_fusion(
    sets: Sequence[TrainSet],
    settings: ScorerTraining,
    manifest: Mapping[str, Any],
    examples: Sequence[Example],
    *,
    without: Collection[str] = (),
) -> FusionModel:
    """Fit the scorer on the examples, and count the statistics over all dialogues."""
    seen = [o for its in sets if its.counted for o in its.observations(range(len(its.turns)))]
    scorer = fit_scorer(examples, settings, without=without)
    return FusionModel(ItemStatistics.count(seen), scorer, manifest)
