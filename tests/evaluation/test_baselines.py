from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from reges_index.catalog.item import Item
from reges_index.evaluation.baselines import (
    baseline_predictions,
    bm25_queries,
    last_mentioned,
    most_popular,
)
from reges_index.evaluation.data import EvaluationData
from reges_index.evaluation.metrics import make_pairs, score_pairs

from .conftest import make_turn


def test_most_popular_and_last_mentioned_on_small_data(data):
    assert most_popular(data.turns, data.train, data.items) == [("i5", "i6")] * 5
    assert last_mentioned(data.turns) == [(), ("i0",), ("i2", "i3"), ("i2",), ()]


def test_an_item_mentioned_again_counts_where_it_was_named_last():
    assert last_mentioned([make_turn(0, "a", ["x"], ["i1", "i2", "i1"])]) == [("i1", "i2")]


def test_bm25_finds_words_and_leaves_out_what_shares_none():
    items = (
        Item(id="a", title="Alien", abstract="A crew meets a creature in space."),
        Item(id="b", title="Heat", abstract="A detective hunts a robber in Los Angeles."),
    )
    assert bm25_queries(["a creature on a space ship", "zzz qqq"], items) == [("a",), ()]


def test_bm25_of_stop_words_alone_lists_nothing():
    films = (Item(id="a", title="It"), Item(id="b", title="The"))
    assert bm25_queries(["the film it", "zzz"], films) == [(), ()]
    assert bm25_queries(["it"], ()) == [()]


def test_the_retriever_gets_the_whole_dialogue(data):
    asked = []

    def retrieve(queries, top_k):
        asked.extend(queries)
        return [["i1"]] * len(queries)

    made, missing = baseline_predictions(data, retrieve=retrieve)
    assert made[-1].rankings == (("i1",),) * len(data.turns)
    assert asked[0] == "seeker: a film about robots"
    assert missing == {}


def test_a_baseline_that_cannot_run_is_named_with_the_reason(data):
    made, missing = baseline_predictions(data)
    assert [system.name for system in made] == ["most popular", "last mentioned", "BM25"]
    assert "--store" in missing["retriever"]
    bare = EvaluationData(tuple(t.model_copy(update={"mentioned": None}) for t in data.turns), data.items)
    made, missing = baseline_predictions(bare)
    assert [system.name for system in made] == ["BM25"]
    assert set(missing) == {"most popular", "last mentioned", "retriever"}


@pytest.mark.shared
@pytest.mark.parametrize("protocol", ["all", "new"])
def test_baselines_on_inspired_dev_match_an_independent_script(inspired, protocol):
    # The ten-line script: plain lists and loops, nothing from the package.
    dev = [json.loads(line) for line in (inspired / "dev.jsonl").open()]
    order = [json.loads(line)["id"] for line in (inspired / "catalog.jsonl").open()]
    train = [json.loads(line) for line in (inspired / "train.jsonl").open()]
    counts = Counter(target for turn in train for target in turn["targets"])
    popular = sorted((i for i in order if counts[i]), key=lambda i: (-counts[i], order.index(i)))
    expected = {"most popular": [], "last mentioned": []}
    for turn in dev:
        gone = set(turn["mentioned"]) if protocol == "new" else set()
        for target in (t for t in turn["targets"] if t not in gone):
            for name, full in (("most popular", popular), ("last mentioned", turn["mentioned"][::-1])):
                kept = [i for i in full if i not in gone]
                expected[name].append([target in kept[:k] for k in (1, 5, 10, 20, 50)])

    data = EvaluationData.read(inspired / "dev.jsonl", inspired / "catalog.jsonl", inspired / "train.jsonl")
    pairs = make_pairs(data.turns, protocol, data.positions)
    for system in baseline_predictions(data)[0]:
        if system.name in expected:
            scores = score_pairs(pairs, system.rankings, data.positions)
            ours = [scores.column(f"recall@{k}").mean() for k in (1, 5, 10, 20, 50)]
            assert ours == pytest.approx(np.mean(expected[system.name], axis=0), abs=1e-12)
