"""Fitting a fusion: statistics out of fold, features of each turn, and the weights on top of them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import brentq

from reges_index.catalog.item import Item
from reges_index.dialogue import Message, Turn
from reges_index.errors import TrainingError
from reges_index.fusion.features import FEATURES, CatalogSources, DialogueState, QueryVectors
from reges_index.fusion.model import FusionModel
from reges_index.fusion.statistics import ItemStatistics, Neighbours, Observation, shares_of
from reges_index.fusion.topic import SAME_TOPIC, TopicChange

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
    "recommended_nearby",
)
_IS_NAMED = FEATURES.index("is_named")
EXTRA = "extra"
"""Group of the examples that are for learning and not for judging."""
# A turn with more messages of the user is no short one.
_SHORT = 2
# Log-odds that `_shift_of_repeats` looks among.
_SHIFTS = (-6.0, 6.0)


@dataclass(frozen=True)
class ScorerTraining:
    """Settings of `fit_weights`, chosen by cross-validation and on the dev sets (finetune/FUSION.md).

    Attributes
    ----------
    l2
        On weights of features scaled to unit deviation.
    new_share
        Share of the loss that leaves named items out of softmax and targets (the protocol ``new``).
    repeat_share
        What share of recommendations repeats a named item; None leaves it at the train sets'. Labels differ
        in it: 7 % in the train sets, one in six in the data as a whole.
    spliced
        What dialogues with a change of topic count together, beside 1 for those of the train sets. They are
        made by putting another dialogue before a short one. Real ones are rare, and without any the fusion
        clings to what was asked for first.
    queries
        What pseudo-queries count together, each as the one message of a dialogue. They are as clear as what
        people type into a search box; chats are vaguer, and teach to trust popularity more than words.
    teacher_share
        Where a teacher has ranked items for a dialogue, the share that these have of its word in
        `Neighbours`; the targets have the rest.
    best, random
        Candidates by each list, and at random from the rest.
    iterations
        Of L-BFGS.
    """

    l2: float = 1e-2
    new_share: float = 0.5
    repeat_share: float | None = 1 / 6
    spliced: float = 0.2
    queries: float = 0.3
    teacher_share: float = 0.7
    best: int = 60
    random: int = 150
    iterations: int = 60


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
    rankings
        A teacher's ranking of each turn, as catalog positions, best first; empty where there is none.
    spliced, queries
        Of the same catalog and for the fit alone: turns with a change of topic (`spliced_turns`), and turns
        of which a pseudo-query is the only message.
    states, targets
        Of each turn: its state, and catalog positions of its targets, those outside the catalog left out.
    """

    name: str
    turns: Sequence[Turn]
    sources: CatalogSources
    vectors: list[QueryVectors]
    rankings: Sequence[Sequence[int]] = ()
    spliced: TrainSet | None = None
    queries: TrainSet | None = None
    states: list[DialogueState] = field(init=False)
    targets: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        place = {item.id: n for n, item in enumerate(self.sources.items)}
        self.states = [self.sources.read(turn.chat) for turn in self.turns]
        self.targets = [[place[t] for t in dict.fromkeys(turn.targets) if t in place] for turn in self.turns]

    def blocks(self, names: Mapping[str, int], folds: int) -> npt.NDArray[np.int64]:
        """Return each turn's fold: blocks next to each other in time, a dialogue whole in one of them."""
        places = np.array([names[turn.dialog_id or turn.id] for turn in self.turns], dtype=np.int64)
        return places * folds // max(1, len(names))

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


def user_messages(turn: Turn) -> int:
    """Return how often the user has spoken."""
    return sum(message.role == "user" for message in turn.messages)


def up_to_an_answer(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the messages up to the last answer: one comes before the user changes the topic."""
    end = len(messages)
    while end and messages[end - 1].role == "user":
        end -= 1
    return tuple(messages[:end])


def spliced_turns(turns: Sequence[Turn]) -> list[Turn]:
    """Return each turn whose user has spoken at most twice behind the messages of another dialogue.

    What is asked for last is then something else than what was asked for before. Which dialogue comes before
    which is drawn, the same in every run.
    """
    rng = np.random.default_rng(0)
    found = []
    for turn in turns:
        if user_messages(turn) > _SHORT:
            continue
        before = turns[int(rng.integers(len(turns)))]
        messages = up_to_an_answer(before.messages)
        if messages and before.dialog_id != turn.dialog_id:
            found.append(turn.model_copy(update={"messages": (*messages, *turn.messages)}))
    return found


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
    group
        Of which data set.
    """

    features: Floats
    targets: npt.NDArray[np.bool_]
    named: npt.NDArray[np.bool_]
    log_counts: Floats
    weight: float
    group: str


def make_examples(sets: Sequence[TrainSet], settings: ScorerTraining, *, folds: int = 3) -> list[Example]:
    """Make the features of all turns with a target, with statistics of the other folds' dialogues.

    Those of spliced turns and of pseudo-queries come last, in the group `EXTRA`.

    Raises
    ------
    TrainingError
        If no turn has a target in its catalog.
    """
    rng = np.random.default_rng(0)
    found: list[Example] = []
    extra: dict[str, list[Example]] = {"spliced": [], "queries": []}
    for train in sets:
        names = {key: n for n, key in enumerate(dict.fromkeys(t.dialog_id or t.id for t in train.turns))}
        blocks = train.blocks(names, folds)
        others = [(its, range(len(its.turns))) for its in sets if its is not train]
        for block in range(folds):
            rows = np.flatnonzero(blocks != block).tolist()
            bound = train.sources.with_statistics(
                ItemStatistics.count(train.observations(rows)),
                neighbours_of([(train, rows), *others], settings.teacher_share),
            )
            found += _examples(train, np.flatnonzero(blocks == block), bound, settings, rng)
            for kind, examples in extra.items():
                its: TrainSet | None = getattr(train, kind)
                if its is not None and getattr(settings, kind):
                    inside = np.flatnonzero(its.blocks(names, folds) == block)
                    examples += _examples(its, inside, bound, settings, rng)
        logger.info("features of %s: %d turns", train.name, len(train.turns))
    if not found:
        raise TrainingError(
            "no turn to fit a fusion on has a target in its catalog",
            hint="give train turns whose targets are in the catalog",
        )
    return found + [
        replace(example, weight=getattr(settings, kind) * len(found) / len(examples), group=EXTRA)
        for kind, examples in extra.items()
        for example in examples
    ]


def neighbours_of(rows: Iterable[tuple[TrainSet, Iterable[int]]], teacher_share: float) -> Neighbours:
    """Return the dialogues of these turns by their vectors, and what was, or should be, recommended."""
    vectors, words = [], []
    for its, numbers in rows:
        items = its.sources.items
        for row in numbers:
            ranking = [items[n] for n in its.rankings[row]] if its.rankings else []
            targets = [items[n] for n in its.targets[row]]
            if targets or ranking:
                vectors.append(its.vectors[row].dialogue)
                words.append(shares_of(targets, ranking, teacher_share))
    return Neighbours.count(vectors, words)


def _examples(
    train: TrainSet,
    rows: Iterable[int],
    sources: CatalogSources,
    settings: ScorerTraining,
    rng: np.random.Generator,
) -> list[Example]:
    """Return the examples of those turns that have a target."""
    found = []
    for row in rows:
        if train.targets[row]:
            matrix = sources.features(train.turns[row].chat, train.vectors[row], state=train.states[row])
            found.append(_example(train, row, matrix, settings, rng))
    return found


def _example(
    train: TrainSet,
    row: int,
    matrix: Floats,
    settings: ScorerTraining,
    rng: np.random.Generator,
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
    return Example(matrix[items], is_target, is_named, log_counts, 1.0, train.name)


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


def fit_weights(
    examples: Sequence[Example], settings: ScorerTraining, *, without: Collection[str] = ()
) -> Floats:
    """Return the weight of each feature, shape (F,), by a softmax over each turn's candidates.

    Parameters
    ----------
    without
        Features that get no weight.

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
    weights = torch.zeros(len(FEATURES), requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=settings.iterations, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = packed.loss(packed.features @ weights, settings.new_share) + settings.l2 * (weights**2).sum()
        value.backward()
        return value

    optimizer.step(closure)
    found: Floats = (weights.detach() * packed.scale).numpy()
    if settings.repeat_share is not None and "is_named" not in without:
        usual = [example for example in examples if example.group != EXTRA]
        found[_IS_NAMED] += _shift_of_repeats(usual, found, settings.repeat_share)
    return found


def _shift_of_repeats(examples: Sequence[Example], weights: Floats, share: float) -> float:
    """Return the log-odds that give all named items together a mean probability of ``share``.

    Where that is out of reach (too few turns name an item) it is 0, with a warning.
    """
    scored = [
        (its.features @ weights + its.log_counts, its.features[:, _IS_NAMED], its.named) for its in examples
    ]
    most = _named_mass(scored, _SHIFTS[1])
    if most < share:
        logger.warning(
            "repeat_share: named items cannot get %.1f %% of the probability, at most %.1f %% in these "
            "turns; their weight stays as learnt",
            *(100 * share, 100 * most),
        )
        return 0.0
    if _named_mass(scored, _SHIFTS[0]) >= share:
        return _SHIFTS[0]
    return float(brentq(lambda shift: _named_mass(scored, shift) - share, *_SHIFTS, xtol=1e-3))


def _named_mass(scored: Sequence[tuple[Floats, Floats, npt.NDArray[np.bool_]]], shift: float) -> float:
    masses = []
    for scores, is_named, named in scored:
        moved = (scores + shift * is_named).astype(np.float64)
        masses.append(np.exp(moved - np.logaddexp.reduce(moved))[named].sum())
    return float(np.mean(masses))


def recalls(judged: Sequence[tuple[Example, Floats]], *, new: bool = False) -> dict[str, float | None]:
    """Return recall at 1, 5, 10 and 50 of targets among the candidates; with ``new``, without named items."""
    ranks: list[int] = []
    for example, weights in judged:
        scores = example.features @ weights
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
    topic: TopicChange = SAME_TOPIC,
    *,
    without: Collection[str] = (),
) -> FusionModel:
    """Fit the weights on the examples, and count the statistics over all dialogues."""
    seen = [o for its in sets for o in its.observations(range(len(its.turns)))]
    weights = fit_weights(examples, settings, without=without)
    neighbours = neighbours_of(((its, range(len(its.turns))) for its in sets), settings.teacher_share)
    return FusionModel(ItemStatistics.count(seen), neighbours, weights, topic, manifest)
