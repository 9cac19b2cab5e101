from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ranx import Qrels, Run, evaluate

from reges_index.evaluation.metrics import METRICS, make_pairs, profile_recommendations, score_pairs
from reges_index.evaluation.predictions import NOTHING

from .conftest import make_items, make_turn


def scores_of(turns, items, rankings, protocol="all", recommended=None):
    catalog = {item.id: n for n, item in enumerate(items)}
    pairs = make_pairs(turns, protocol, catalog)
    return pairs, score_pairs(pairs, rankings, catalog, recommended)


def test_the_protocols_count_what_they_say(turns, items):
    catalog = {item.id for item in items}
    everything = make_pairs(turns, "all", catalog)
    assert list(zip(everything.turn, everything.target, strict=True)) == [
        (0, "i0"), (1, "i1"), (1, "i0"), (2, "i2"), (3, "i9"), (3, "gone")
    ]  # fmt: skip
    assert everything.counts["turns_without_targets"] == 1
    assert everything.counts["targets_outside_catalog"] == 1
    assert everything.counts["dialogues_counted"] == 2
    new = make_pairs(turns, "new", catalog)
    assert new.target == ("i0", "i1", "i9", "gone")
    assert new.counts["repeated_targets_dropped"] == 2
    assert new.counts["turns_without_new_targets"] == 1
    assert new.counts["turns_counted"] == 3
    assert new.excluded[1] == {"i0"}
    assert everything.excluded[1] == frozenset()


def test_turns_without_mention_labels_are_left_out_of_new_and_counted(items):
    turns = [make_turn(0, "a", ["i0"], None), make_turn(1, "a", ["i1", "i1"], [])]
    pairs = make_pairs(turns, "new", {"i0", "i1"})
    assert pairs.target == ("i1",)
    assert pairs.counts["turns_without_mention_labels"] == 1
    assert pairs.counts["double_targets_dropped"] == 1


def test_turns_without_a_dialogue_id_stand_for_themselves(items):
    turns = [make_turn(0, "", ["i0"], []), make_turn(1, "", ["i1"], []), make_turn(2, "t0", ["i1"], [])]
    pairs = make_pairs(turns, "all", {"i0", "i1"})
    assert pairs.counts["dialogues_counted"] == 3
    assert pairs.counts["turns_without_dialogue_id"] == 2


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_metrics_agree_with_ranx_on_random_scores_with_ties(seed):
    rng = np.random.default_rng(seed)
    items = make_items(80)
    ids = np.array([item.id for item in items])
    turns = [
        make_turn(n, f"d{n // 3}", list(rng.choice(ids, rng.integers(1, 4), replace=False)), [])
        for n in range(20)
    ]
    rankings, queries, runs = [], {}, {}
    for turn in turns:
        # Few distinct scores, so there are ties; the list that a system writes has broken them.
        ties = rng.integers(0, 6, len(ids)).astype(float)
        listed = [str(i) for i in ids[np.argsort(-ties, kind="stable")][: rng.integers(1, 81)]]
        rankings.append(listed)
        for target in turn.targets:
            queries[f"{turn.id} {target}"] = {str(target): 1}
            runs[f"{turn.id} {target}"] = {item: float(len(ids) - n) for n, item in enumerate(listed)}
    pairs, scores = scores_of(turns, items, rankings)
    order = [f"{turns[t].id} {target}" for t, target in zip(pairs.turn, pairs.target, strict=True)]
    run = Run(runs)
    evaluate(Qrels(queries), run, list(METRICS[1:]))
    for column, metric in enumerate(METRICS[1:], 1):
        theirs = np.array([run.scores[metric][key] for key in order])
        np.testing.assert_allclose(scores.values[:, column], theirs, atol=1e-9, rtol=0)
    first = [rankings[t][0] == target for t, target in zip(pairs.turn, pairs.target, strict=True)]
    np.testing.assert_array_equal(scores.column("rec_success_rate"), first)


def test_mentioned_items_leave_the_ranking_only_in_new(turns, items):
    rankings = [(), ("i0", "i1"), (), ("i2", "gone", "i9"), ()]
    _, everything = scores_of(turns, items, rankings)
    assert everything.rank.tolist() == [0, 2, 1, 0, 3, 0]
    pairs, new = scores_of(turns, items, rankings, "new")
    assert dict(zip(pairs.target, new.rank.tolist(), strict=True)) == {"i0": 0, "i1": 1, "i9": 2, "gone": 0}


def test_a_target_outside_the_catalog_cannot_be_hit(turns, items):
    _, scores = scores_of(turns, items, [(), (), (), ("gone",), ()])
    assert not scores.values.any()


def test_an_item_outside_the_catalog_keeps_its_place(items):
    _, scores = scores_of([make_turn(0, "a", ["i0"], [])], items, [["no such film", "i0"]])
    assert scores.rank.tolist() == [2]
    assert scores.column("mrr@10")[0] == 0.5


def test_the_recommendation_may_differ_from_the_first_of_the_ranking(turns, items):
    rankings = [("i5", "i0"), (), ("i2",), (), ()]
    _, scores = scores_of(turns, items, rankings, recommended=["i0", None, None, None, None])
    assert scores.column("rec_success_rate").tolist() == [1, 0, 0, 1, 0, 0]
    assert scores.column("recall@1").tolist() == [0, 0, 0, 1, 0, 0]


def test_a_recommendation_that_new_excludes_gives_way_to_the_next(turns, items):
    rankings = [(), ("i0", "i1"), (), (), ()]
    pairs, scores = scores_of(turns, items, rankings, "new", [None, "i0", None, None, None])
    assert scores.column("rec_success_rate").tolist() == [float(t == "i1") for t in pairs.target]


def test_a_recommendation_that_is_no_item_is_a_miss(items):
    turns = [make_turn(0, "a", ["i0"], [])]
    _, scores = scores_of(turns, items, [["i0"]], recommended=["A Film Nobody Made"])
    assert scores.column("rec_success_rate").tolist() == [0]


def test_ranks_below_fifty_are_known_but_score_nothing(items):
    many = make_items(70)
    _, scores = scores_of([make_turn(0, "a", ["i60"], [])], many, [[i.id for i in many]])
    assert scores.rank.tolist() == [61]
    assert not scores.values.any()


def test_coverage_and_popularity_are_of_what_is_recommended(turns, items):
    catalog = {item.id: n for n, item in enumerate(items)}
    rankings = [("i5", "i6"), ("i0", "i5"), (), ("alien", "i1"), ("i9",)]
    new = make_pairs(turns, "new", catalog)
    profile = profile_recommendations(new, rankings, catalog, Counter({"i5": 4}))
    assert profile["distinct@1"] == 1  # i5 twice (i0 was mentioned), and one that is no item
    assert profile["distinct@10"] == 3
    assert profile["coverage@10"] == pytest.approx(3 / 30)
    assert profile["mean popularity"] == pytest.approx(8 / 3)
    assert profile["share never a train target"] == pytest.approx(1 / 3)
    assert "mean popularity" not in profile_recommendations(new, [()] * 5, catalog, None)
    everything = make_pairs(turns, "all", catalog)  # turns 0 to 3
    rankings = [("i5", "i6"), ("i5",), (), ("i5", "i7"), ()]
    said = ["i6", NOTHING, "i8", None, None]
    profile = profile_recommendations(everything, rankings, catalog, Counter({"i5": 4, "i6": 2}), said)
    assert (profile["distinct@1"], profile["distinct@10"]) == (3, 3)  # i5 of turn 3 names no other
    assert profile["mean popularity"] == pytest.approx((2 + 0 + 4) / 3)
    assert (profile["turns without ranking"], profile["turns without recommendation"]) == (1, 1)
