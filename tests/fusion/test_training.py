"""The fit: folds of whole dialogues, nothing of a fold in its own features, and it learns."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from reges_index.errors import TrainingError
from reges_index.fusion.features import FEATURES
from reges_index.fusion.fit_scorer import fit_scorer
from reges_index.fusion.fit_weights import WeightTraining, adjust_repeats, make_example, pair_ranks
from reges_index.fusion.fitting import TrainSet, observations, split
from reges_index.fusion.scorer import Scorer
from reges_index.fusion.statistics import ItemStatistics
from reges_index.fusion.training import (
    REPEATS_MISSED,
    FusionTraining,
    cross_validate,
    fit_fusion,
    out_of_fold,
)


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


@pytest.mark.parametrize("hidden", [0, 4])
def test_features_without_weight_do_not_count(made, settings, hidden):
    training = replace(settings.weights, hidden=hidden)
    scorer = fit_scorer(made.examples[0], training, without=("recommended", "adapted"))
    assert not scorer.uses("recommended")
    assert not scorer.uses("adapted")
    assert scorer.uses("dense_dialogue")
    features = made.examples[0][0].features
    changed = features.copy()
    changed[:, FEATURES.index("recommended")] += 7
    assert np.array_equal(scorer(features), scorer(changed))


def test_the_correction_learns_what_no_weighted_sum_can():
    # The target is the item where exactly one of two features is 1.
    rng = np.random.default_rng(0)
    training = WeightTraining(hidden=8, epochs=60, dropout=0.0, learning_rate=0.03, l2=0, new_share=0)
    first, second = FEATURES.index("bm25_last"), FEATURES.index("genre_asked")
    examples = []
    for number in range(64):
        kind = [0, 1] if number % 2 else [1, 0]
        matrix = np.zeros((4, len(FEATURES)), dtype=np.float32)
        order = rng.permutation(4)
        pairs = np.array([[0, 0], [1, 1], kind, [0, 0]], dtype=np.float32)[order]
        matrix[:, [first, second]] = pairs
        examples.append(make_example(matrix, [int(np.flatnonzero(order == 2)[0])], (), training, rng))
    scorers = [fit_scorer(examples, replace(training, hidden=hidden)) for hidden in (0, 8)]
    plain, refined = ([pair_ranks(example, scorer)[0] for example in examples] for scorer in scorers)
    assert np.mean(np.array(plain) == 1) < 0.5
    assert np.mean(np.array(refined) == 1) == 1


def test_several_networks_score_what_they_score_on_average(made, settings):
    training = replace(settings.weights, hidden=4, epochs=2)
    examples = made.examples[0]
    apart = [fit_scorer(examples, training, seed=seed) for seed in (5, 6, 7)]
    together = fit_scorer(examples, replace(training, networks=3), seed=5)
    features = examples[0].features
    assert not np.allclose(apart[0](features), apart[1](features), atol=1e-3)
    assert np.allclose(together(features), np.mean([one(features) for one in apart], axis=0), atol=1e-4)


def test_the_same_seed_gives_the_same_scorer_and_leaves_torchs_own_alone(made, settings):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two = (fit_scorer(made.examples[0], settings.weights, seed=3) for _ in range(2))
    assert torch.rand(1) == expected
    features = made.examples[0][0].features
    assert np.array_equal(one(features), two(features))


def naming_one(example, *, named=True):
    """An example whose first candidate alone was named, or none."""
    features = example.features.copy()
    features[:, FEATURES.index("is_named")] = 0
    features[0, FEATURES.index("is_named")] = named
    return replace(example, features=features, named=(np.arange(len(features)) == 0) & named)


def test_the_share_of_repeats_is_what_was_asked_for(made, settings):
    examples = [naming_one(example) for example in made.examples[0]]
    flat = replace(settings.weights, l2=1.0, hidden=0)  # scores that a few log-odds can turn
    scorer = adjust_repeats(examples, fit_scorer(examples, flat), 0.3)
    mass = []
    for example in examples:
        scores = scorer(example.features).astype(np.float64) + example.log_counts
        chances = np.exp(scores - scores.max())
        mass.append((chances / chances.sum())[example.named].sum())
    assert np.mean(mass) == pytest.approx(0.3, abs=0.01)


def test_ranks_with_and_without_named_items(settings):
    matrix = np.zeros((4, len(FEATURES)), dtype=np.float32)
    matrix[:, 0] = [3, 2, 1, 0]
    example = make_example(matrix, [1], {0}, settings.weights, np.random.default_rng(0))
    linear = np.zeros(len(FEATURES), dtype=np.float32)
    linear[0] = 1
    scorer = Scorer.weighted(linear)
    assert pair_ranks(example, scorer) == [2]
    assert pair_ranks(example, scorer, new=True) == [1]


def test_one_fold_is_refused(train_set):
    with pytest.raises(TrainingError, match="two folds"):
        out_of_fold([train_set], FusionTraining(folds=1))


def of_turns(train_set, rows, changes=None):
    """A train set of some of another's turns, each with other values of some fields."""
    turns = [train_set.turns[row].model_copy(update=(changes or {}).get(row, {})) for row in rows]
    return TrainSet("films", turns, train_set.sources, [train_set.vectors[row] for row in rows])


def test_a_share_of_repeats_out_of_reach_changes_nothing(made, settings, caplog):
    examples = [naming_one(example, named=row == 0) for row, example in enumerate(made.examples[0])]
    learnt = fit_scorer(examples, replace(settings.weights, l2=1.0, hidden=0))
    with caplog.at_level(logging.WARNING, "reges_index.fusion"):
        adjusted = adjust_repeats(examples, learnt, 1 / 6)
    assert np.array_equal(adjusted.linear, learnt.linear)
    assert "cannot get 16.7 % of the probability, at most 4.0 %" in caplog.text  # one turn of 24


@pytest.mark.parametrize(("share", "manifest"), [(0.3, {}), (0.999, {REPEATS_MISSED: True})])
def test_a_fusion_says_where_its_repeats_are_as_they_were_learnt(train_set, settings, made, share, manifest):
    weights = replace(settings.weights, l2=1.0, hidden=0, repeat_share=share)
    all_name = replace(made, examples=[[naming_one(example) for example in made.examples[0]]])
    model = fit_fusion([train_set], replace(settings, weights=weights), {}, all_name)
    assert model.manifest == manifest


def test_targets_of_one_fold_alone_are_refused_in_words(train_set, settings):
    two = of_turns(train_set, [0, 1], {1: {"targets": ()}})
    with pytest.raises(TrainingError, match=r"dialogues with targets: 1, all in fold 1 of 2") as raised:
        out_of_fold([two], settings)
    assert "as many dialogues as folds" in str(raised.value)
    enough = out_of_fold([of_turns(train_set, [0, 1])], settings)
    early = replace(enough, examples=[[enough.examples[0][0], without_targets(enough.examples[0][1])]])
    with pytest.raises(TrainingError, match="none of 1 turns to learn from has a target"):
        cross_validate(early, settings.weights)


def without_targets(example):
    return replace(example, targets=np.zeros_like(example.targets))


def test_recall_over_no_pairs_is_none(train_set, settings, made):
    nothing = replace(made, examples=[*made.examples, [without_targets(e) for e in made.examples[0]]])
    nothing = replace(nothing, folds=[*made.folds, *made.folds])
    scores = cross_validate(nothing, settings.weights)["all"]
    assert scores[0]["pairs"] == 24
    assert scores[1] == {"pairs": 0, "recall@1": None, "recall@10": None, "recall@50": None}
    json.dumps(scores, allow_nan=False)
