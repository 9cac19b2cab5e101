"""The whole fit: statistics and adapter out of fold, weights on top, then both again on everything."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from reges_index.errors import TrainingError
from reges_index.fusion.features import FEATURES, CatalogSources
from reges_index.fusion.fit_adapter import AdapterTraining, fit_adapter
from reges_index.fusion.fit_scorer import fit_scorer
from reges_index.fusion.fit_weights import Example, WeightTraining, adjust_repeats, make_example, pair_ranks
from reges_index.fusion.fitting import TrainSet, observations, split
from reges_index.fusion.model import FusionModel
from reges_index.fusion.scorer import Scorer
from reges_index.fusion.scoring import SOURCES, feature_matrix
from reges_index.fusion.statistics import ItemStatistics

__all__ = ["FusionTraining", "OutOfFold", "cross_validate", "fit_fusion", "out_of_fold"]

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
# What says nothing about a catalog that the train dialogues do not know: counts, a map that has seen one
# domain, and what kind of item (new, long abstract) that domain prefers.
_OF_THE_DOMAIN = tuple(
    name for source in ("popularity", "together", "adapter", "item") for name in SOURCES[source]
)


@dataclass(frozen=True)
class FusionTraining:
    """Settings of `fit_fusion`.

    Attributes
    ----------
    adapter, weights
        Of the two parts.
    folds
        Blocks of dialogues next to each other in time, two or more.
    seed
        Of the candidates that are drawn at random.
    """

    adapter: AdapterTraining = field(default_factory=AdapterTraining)
    weights: WeightTraining = field(default_factory=WeightTraining)
    folds: int = 4
    seed: int = 0


@dataclass(frozen=True)
class OutOfFold:
    """Examples whose features no turn of the same fold has touched.

    Attributes
    ----------
    examples, folds
        For each set one entry a turn.
    """

    examples: list[list[Example]]
    folds: list[npt.NDArray[np.int64]]


def _parts(
    sets: Sequence[TrainSet], rows: Sequence[npt.NDArray[np.int64]], settings: FusionTraining
) -> FusionModel:
    seen = [o for train, its in zip(sets, rows, strict=True) for o in observations(train, its.tolist())]
    nothing = Scorer.weighted(np.zeros(len(FEATURES), dtype=np.float32))
    return FusionModel(
        fit_adapter(sets, rows, settings.adapter), ItemStatistics.count(seen), nothing, nothing
    )


def _matrix(model: FusionModel, train: TrainSet, sources: CatalogSources, biases: Floats, row: int) -> Floats:
    chat = train.turns[row].chat
    return feature_matrix(model, sources, biases, chat, train.vectors[row], train.states[row])


def out_of_fold(sets: Sequence[TrainSet], settings: FusionTraining) -> OutOfFold:
    """Make the features of every turn with parts that were trained on the other folds.

    Raises
    ------
    TrainingError
        If there are fewer than two folds, or no turn with a target.
    """
    if settings.folds < 2 or not any(any(train.targets) for train in sets):
        raise TrainingError(
            f"a fusion needs turns with targets and two folds, got {settings.folds}",
            hint="give train turns whose targets are in the catalog",
        )
    rng = np.random.default_rng(settings.seed)
    folds = [split(train, settings.folds) for train in sets]
    examples: list[dict[int, Example]] = [{} for _ in sets]
    for fold in range(settings.folds):
        model = _parts(sets, [np.flatnonzero(f != fold) for f in folds], settings)
        for number, train in enumerate(sets):
            sources = train.sources.with_statistics(model.statistics)
            biases = model.adapter.bias(train.titles)
            for row in np.flatnonzero(folds[number] == fold).tolist():
                named = {item.item for item in train.states[row].named}
                matrix = _matrix(model, train, sources, biases, row)
                examples[number][row] = make_example(matrix, train.targets[row], named, settings.weights, rng)
        logger.info("fold %d of %d done", fold + 1, settings.folds)
    return OutOfFold([[its[row] for row in range(len(its))] for its in examples], folds)


def cross_validate(
    made: OutOfFold, settings: WeightTraining, *, without: Sequence[str] = ()
) -> dict[str, list[dict[str, float]]]:
    """Return recall at 1, 10 and 50 of each set by protocol; each fold is judged by weights of the others."""
    ranks: dict[str, list[list[int]]] = {"all": [[] for _ in made.folds], "new": [[] for _ in made.folds]}
    for fold in range(int(max(f.max() for f in made.folds)) + 1):
        others = [
            example
            for examples, folds in zip(made.examples, made.folds, strict=True)
            for example, its in zip(examples, folds, strict=True)
            if its != fold
        ]
        scorer = fit_scorer(others, settings, without=without)
        for number, (examples, folds) in enumerate(zip(made.examples, made.folds, strict=True)):
            for row in np.flatnonzero(folds == fold):
                ranks["all"][number] += pair_ranks(examples[row], scorer)
                ranks["new"][number] += pair_ranks(examples[row], scorer, new=True)
    return {
        protocol: [
            {"pairs": len(r), **{f"recall@{k}": float(np.mean(np.array(r) <= k)) for k in (1, 10, 50)}}
            for r in sets
        ]
        for protocol, sets in ranks.items()
    }


def fit_fusion(
    sets: Sequence[TrainSet],
    settings: FusionTraining,
    manifest: Mapping[str, Any],
    made: OutOfFold | None = None,
) -> FusionModel:
    """Train everything on train sets.

    Parameters
    ----------
    manifest
        What to record beside the settings: encoder, data.
    made
        The out-of-fold examples where they have been made already.
    """
    made = out_of_fold(sets, settings) if made is None else made
    examples = [example for its in made.examples for example in its]
    model = _parts(sets, [np.arange(len(train.turns)) for train in sets], settings)
    known = fit_scorer(examples, settings.weights, seed=settings.seed)
    unknown = fit_scorer(examples, settings.weights, without=_OF_THE_DOMAIN, seed=settings.seed)
    share = settings.weights.repeat_share
    if share is not None:  # a habit of the data sets; of a catalog unlike theirs nothing is known
        known = adjust_repeats(examples, known, share)
    return replace(model, known=known, unknown=unknown, manifest=manifest)
