"""The whole fit: statistics and adapter out of fold, weights on top, then both again on everything."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from reges_index.catalog.encoder import encoder_identity
from reges_index.errors import ConfigError, TrainingError
from reges_index.fusion.features import FEATURES, dialogue_texts
from reges_index.fusion.fit_adapter import AdapterTraining, fit_adapter
from reges_index.fusion.fit_scorer import fit_scorer
from reges_index.fusion.fit_tower import TowerTraining, fit_tower
from reges_index.fusion.fit_weights import Example, WeightTraining, adjust_repeats, make_example, pair_ranks
from reges_index.fusion.fitting import TrainSet, observations, split
from reges_index.fusion.model import FORMAT, FusionModel
from reges_index.fusion.scorer import Scorer
from reges_index.fusion.scoring import SOURCES, check_sources, feature_matrix
from reges_index.fusion.statistics import ItemStatistics
from reges_index.fusion.tower import QueryTower, tower_base

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding

__all__ = [
    "REPEATS_MISSED",
    "FusionTraining",
    "OutOfFold",
    "Workbench",
    "cross_validate",
    "features_outside",
    "fit_fusion",
    "out_of_fold",
    "ranked_out_of_fold",
]

logger = logging.getLogger(__name__)

REPEATS_MISSED = "repeat_share_missed"
"""Key in the manifest of a fusion that `adjust_repeats` has left alone: its share was out of reach."""

Floats = npt.NDArray[np.float32]

# What says nothing about a catalog that the train dialogues do not know: counts, a map that has seen one
# domain, and what kind of item (new, long abstract) that domain prefers.
_OF_THE_DOMAIN = tuple(
    name for source in ("popularity", "together", "adapter", "item") for name in SOURCES[source]
)
# Of what `_key` hashes; a part that was kept under another is trained again.
_PARTS_FORMAT = "reges-fusion-parts/2"
# What `adjust_repeats` moves.
_REPEATS = "is_named"


def features_outside(sources: Collection[str] | None) -> frozenset[str]:
    """Return the features of no source among these, such as ("adapter",); none where all may have weight.

    Raises
    ------
    InputError
        If a source's name is unknown.
    """
    if sources is None:
        return frozenset()
    inside = {name for source in check_sources(sources) for name in SOURCES[source]}
    return frozenset(FEATURES) - inside


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
    tower
        Of the trained query side of the encoder; None trains maps of the frozen encoder's vectors only.
    """

    adapter: AdapterTraining = field(default_factory=AdapterTraining)
    weights: WeightTraining = field(default_factory=WeightTraining)
    folds: int = 4
    seed: int = 0
    tower: TowerTraining | None = None


@dataclass(frozen=True)
class Workbench:
    """What training a query tower needs beside the train sets.

    Attributes
    ----------
    embed_model
        The catalogs' encoder.
    keep
        Folder where each fold's parts are kept, so that a killed run goes on behind the last one.
    """

    embed_model: BaseEmbedding
    keep: Path


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
    sets: Sequence[TrainSet],
    rows: Sequence[npt.NDArray[np.int64]],
    settings: FusionTraining,
    bench: Workbench | None,
) -> FusionModel:
    seen = [o for train, its in zip(sets, rows, strict=True) for o in observations(train, its.tolist())]
    nothing = Scorer.weighted(np.zeros(len(FEATURES), dtype=np.float32))
    if settings.tower is None:
        adapter = fit_adapter(sets, rows, settings.adapter)
        return FusionModel(adapter, ItemStatistics.count(seen), nothing, nothing)
    if bench is None:
        raise ConfigError("a query tower is trained over an encoder", hint="give a Workbench")
    kept = bench.keep / f"parts-{_key(sets, rows, settings, bench)}"
    if not (kept / "fusion.json").exists():
        adapter, tower = fit_tower(sets, rows, settings.tower, settings.adapter, bench.embed_model)
        FusionModel(adapter, ItemStatistics.count(seen), nothing, nothing, tower=tower).save(kept)
    # Read again also when it was just made: weights are kept in half precision, and used so.
    return FusionModel.load(kept)


def _key(
    sets: Sequence[TrainSet],
    rows: Sequence[npt.NDArray[np.int64]],
    settings: FusionTraining,
    bench: Workbench,
) -> str:
    """Return a hash of all that the parts depend on: settings, encoder, whole items and whole turns."""
    assert settings.tower is not None
    formats = (_PARTS_FORMAT, FORMAT, FEATURES)
    encoder = encoder_identity(bench.embed_model)
    digest = sha256(f"{formats} {asdict(settings.tower)} {asdict(settings.adapter)} {encoder}".encode())
    for train, its in zip(sets, rows, strict=True):
        for item in train.sources.items:
            digest.update(_json(item.model_dump(mode="json")))
        digest.update(train.sources.vectors.tobytes())
        for row in its.tolist():
            turn, vectors = train.turns[row], train.vectors[row]
            said = [(message.role, message.content) for message in turn.messages]
            digest.update(_json([turn.id, turn.dialog_id, said, train.targets[row]]))
            digest.update(vectors.dialogue.tobytes() + vectors.last.tobytes())
    return digest.hexdigest()[:16]


def _json(value: Any) -> bytes:
    # One line each, and ASCII: texts may hold halves of surrogate pairs, which UTF-8 has no bytes for.
    return (json.dumps(value, sort_keys=True) + "\n").encode()


def _by_tower(
    model: FusionModel, train: TrainSet, rows: Sequence[int], bench: Workbench | None
) -> dict[int, Floats]:
    if model.tower is None or bench is None or not rows:
        return {}
    tower = QueryTower(model.tower, tower_base(bench.embed_model))
    vectors = tower.encode([dialogue_texts(train.turns[row].chat)[0] for row in rows])
    return dict(zip(rows, vectors, strict=True))


def out_of_fold(
    sets: Sequence[TrainSet], settings: FusionTraining, bench: Workbench | None = None
) -> OutOfFold:
    """Make the features of every turn with parts that were trained on the other folds.

    Parameters
    ----------
    bench
        Needed where a query tower is trained.

    Raises
    ------
    TrainingError
        If there are fewer than two folds, no turn with a target, or all of them in one fold.
    ConfigError
        If a query tower is to be trained without a `Workbench`, or over an encoder that cannot be trained.
    """
    if settings.folds < 2 or not any(any(train.targets) for train in sets):
        raise TrainingError(
            f"a fusion needs turns with targets and two folds, got {settings.folds}",
            hint="give train turns whose targets are in the catalog",
        )
    rng = np.random.default_rng(settings.seed)
    folds = [split(train, settings.folds) for train in sets]
    _check_folds(sets, folds, settings.folds)
    examples: list[dict[int, Example]] = [{} for _ in sets]
    for fold in range(settings.folds):
        model = _parts(sets, [np.flatnonzero(f != fold) for f in folds], settings, bench)
        for number, train in enumerate(sets):
            sources = train.sources.with_statistics(model.statistics)
            biases = model.adapter.bias(train.titles)
            rows = np.flatnonzero(folds[number] == fold).tolist()
            tower = _by_tower(model, train, rows, bench)
            for row in rows:
                named = {item.item for item in train.states[row].named}
                vectors = replace(train.vectors[row], tower=tower.get(row))
                matrix = feature_matrix(
                    model, sources, biases, train.turns[row].chat, vectors, train.states[row]
                )
                examples[number][row] = make_example(matrix, train.targets[row], named, settings.weights, rng)
        logger.info("fold %d of %d done", fold + 1, settings.folds)
    return OutOfFold([[its[row] for row in range(len(its))] for its in examples], folds)


def _check_folds(sets: Sequence[TrainSet], folds: Sequence[npt.NDArray[np.int64]], count: int) -> None:
    """Refuse, before an hour of training, targets of one fold only: nothing would be learnt for that one."""
    places = {
        (number, turn.dialog_id or turn.id): int(fold)
        for number, (train, its) in enumerate(zip(sets, folds, strict=True))
        for turn, targets, fold in zip(train.turns, train.targets, its, strict=True)
        if targets
    }
    if len(set(places.values())) == 1:
        raise TrainingError(
            f"dialogues with targets: {len(places)}, all in fold {min(places.values()) + 1} of {count}; "
            "nothing is left to learn from where they are judged",
            hint="give train turns with targets in at least as many dialogues as folds",
        )


def cross_validate(
    made: OutOfFold, settings: WeightTraining, *, without: Collection[str] = ()
) -> dict[str, list[dict[str, float | None]]]:
    """Return recall at 1, 10 and 50 of each set by protocol; each fold is judged by weights of the others.

    Returns
    -------
    dict
        With the number of ``pairs`` of turn and target; where there is none, recall is None.
    """
    ranks: dict[str, list[list[int]]] = {"all": [[] for _ in made.folds], "new": [[] for _ in made.folds]}
    for fold in range(int(max(f.max() for f in made.folds)) + 1):
        scorer = fit_scorer(_outside(made, fold), settings, without=without)
        for number, (examples, folds) in enumerate(zip(made.examples, made.folds, strict=True)):
            for row in np.flatnonzero(folds == fold):
                ranks["all"][number] += pair_ranks(examples[row], scorer)
                ranks["new"][number] += pair_ranks(examples[row], scorer, new=True)
    return {
        protocol: [
            {
                "pairs": len(its),
                **{f"recall@{k}": float(np.mean(np.array(its) <= k)) if its else None for k in (1, 10, 50)},
            }
            for its in sets
        ]
        for protocol, sets in ranks.items()
    }


def ranked_out_of_fold(
    made: OutOfFold, settings: WeightTraining, top_k: int
) -> list[list[list[tuple[int, float]]]]:
    """Return what a fusion that has not seen the turn ranks highest: for each set, one list a turn.

    These are the candidates that the item expert will meet, so they are its hard negatives for a second
    round; see `reges_index.training.fusion_negatives`.

    Returns
    -------
    list
        Catalog positions with their log-probabilities in the whole catalog, best first.
    """
    ranked: list[list[list[tuple[int, float]]]] = [[[] for _ in its] for its in made.examples]
    for fold in range(int(max(f.max() for f in made.folds)) + 1):
        scorer = fit_scorer(_outside(made, fold), settings)
        for number, (examples, folds) in enumerate(zip(made.examples, made.folds, strict=True)):
            for row in np.flatnonzero(folds == fold).tolist():
                example = examples[row]
                scores = scorer(example.features).astype(np.float64)
                logs = scores - np.logaddexp.reduce(scores + example.log_counts)
                best = np.argsort(-scores, kind="stable")[:top_k]
                ranked[number][row] = [(int(example.items[n]), float(logs[n])) for n in best]
    return ranked


def _outside(made: OutOfFold, fold: int) -> list[Example]:
    return [
        example
        for examples, folds in zip(made.examples, made.folds, strict=True)
        for example, its in zip(examples, folds, strict=True)
        if its != fold
    ]


def fit_fusion(
    sets: Sequence[TrainSet],
    settings: FusionTraining,
    manifest: Mapping[str, Any],
    made: OutOfFold | None = None,
    bench: Workbench | None = None,
    *,
    without: Collection[str] = (),
) -> FusionModel:
    """Train everything on train sets.

    Parameters
    ----------
    manifest
        What to record beside the settings: encoder, data.
    made
        The out-of-fold examples where they have been made already.
    bench
        As for `out_of_fold`.
    without
        Features that get no weight, such as `features_outside` gives.
    """
    made = out_of_fold(sets, settings, bench) if made is None else made
    examples = [example for its in made.examples for example in its]
    model = _parts(sets, [np.arange(len(train.turns)) for train in sets], settings, bench)
    known = fit_scorer(examples, settings.weights, without=without, seed=settings.seed)
    elsewhere = {*without, *_OF_THE_DOMAIN}
    # Where nothing else may have weight, what was learnt of this domain is still better than nothing.
    unknown = known
    if not elsewhere.issuperset(FEATURES):
        unknown = fit_scorer(examples, settings.weights, without=elsewhere, seed=settings.seed)
    share = settings.weights.repeat_share
    # A habit of the data sets; of a catalog unlike theirs nothing is known.
    if share is not None and _REPEATS not in without:
        adjusted = adjust_repeats(examples, known, share)
        if adjusted is known:
            manifest = {**manifest, REPEATS_MISSED: True}
        known = adjusted
    return replace(model, known=known, unknown=unknown, manifest=manifest)
