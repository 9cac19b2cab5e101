"""The fit: folds of whole dialogues, nothing of a fold in its own features, and it learns."""

import numpy as np
import pytest

from reges_index.errors import TrainingError
from reges_index.fusion.features import FEATURES
from reges_index.fusion.fit_weights import fit_weights, make_example, pair_ranks
from reges_index.fusion.fitting import observations, split
from reges_index.fusion.statistics import ItemStatistics
from reges_index.fusion.training import FusionTraining, cross_validate, out_of_fold


@pytest.fixture(scope="module")
def made(train_set, settings):
    return out_of_fold([train_set], settings)


def test_dialogues_stay_whole_and_in_order(train_set):
    folds = split(train_set, 3)
    assert set(folds) == {0, 1, 2}
    assert (np.diff(folds) >= 0).all()
    by_dialogue = {}
    for turn, fold in zip(train_set.turns, folds, strict=True):
        assert by_dialogue.setdefault(turn.dialog_id, fold) == fold


def test_a_fold_never_counts_its_own_turns(train_set, settings, made):
    column = FEATURES.index("recommended")
    for row, (example, fold) in enumerate(zip(made.examples[0], made.folds[0], strict=True)):
        others = np.flatnonzero(made.folds[0] != fold).tolist()
        counts = ItemStatistics.count(observations(train_set, others)).bind(train_set.sources.items)
        assert np.allclose(example.features[:, column], np.log1p(counts.recommended[example.items])), row


def test_candidates_hold_targets_and_stand_for_the_whole_catalog(train_set, made):
    for targets, example in zip(train_set.targets, made.examples[0], strict=True):
        assert set(targets) <= set(example.items.tolist())
        assert len(set(example.items.tolist())) == len(example.items)
        assert np.exp(example.log_counts).sum() == pytest.approx(len(train_set.sources.items), rel=1e-3)


def test_it_learns_what_the_dialogues_show(made, settings):
    [scores] = cross_validate(made, settings.weights)["all"]
    assert scores["pairs"] == 24
    assert scores["recall@1"] > 0.8  # 1 in 8 by chance
    [new] = cross_validate(made, settings.weights)["new"]
    assert new["recall@1"] > 0.8


def test_features_without_weight_do_not_count(made, settings):
    weights = fit_weights(made.examples[0], settings.weights, without=("recommended", "adapted"))
    assert weights[FEATURES.index("recommended")] == 0
    assert weights[FEATURES.index("adapted")] == 0
    assert weights.any()


def test_ranks_with_and_without_named_items(settings):
    matrix = np.zeros((4, len(FEATURES)), dtype=np.float32)
    matrix[:, 0] = [3, 2, 1, 0]
    example = make_example(matrix, [1], {0}, settings.weights, np.random.default_rng(0))
    weights = np.zeros(len(FEATURES), dtype=np.float32)
    weights[0] = 1
    assert pair_ranks(example, weights) == [2]
    assert pair_ranks(example, weights, new=True) == [1]


def test_one_fold_is_refused(train_set):
    with pytest.raises(TrainingError, match="two folds"):
        out_of_fold([train_set], FusionTraining(folds=1))
