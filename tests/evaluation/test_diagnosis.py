from __future__ import annotations

from reges_index.dialogue import Message, Turn
from reges_index.evaluation.data import EvaluationData
from reges_index.evaluation.diagnosis import by_group, fate_counts, fates, length_group, mention_group
from reges_index.evaluation.metrics import score_pairs
from reges_index.evaluation.predictions import Prediction, align
from reges_index.evaluation.protocol import make_pairs

from .conftest import make_turn


def test_where_targets_are_lost(items):
    catalog = {item.id: n for n, item in enumerate(items)}
    turns = [make_turn(n, "a", [t], []) for n, t in enumerate(["i0", "i1", "i2", "i3", "gone"])]
    rankings = [("i0",), ("i0", "i1"), ("i0", "i1", "i2"), ("i0",), ("gone",)]
    pairs = make_pairs(turns, "all", catalog)
    scores = score_pairs(pairs, rankings, catalog)
    found = fates(pairs, scores, catalog, top_k=2)
    assert found == ["picked", "not_picked", "not_in_top_k", "not_in_top_k", "not_in_catalog"]
    assert fate_counts(found) == {"not_in_catalog": 1, "not_in_top_k": 2, "not_picked": 1, "picked": 1}


def test_a_system_that_says_what_it_saw_is_taken_at_its_word(items):
    turns = (make_turn(0, "a", ["i3"], ["i0"]), make_turn(1, "a", ["i3"], []))
    data = EvaluationData(turns, items)
    ranking = ("i0", "i1", "i2", "i3")
    # The mentioned i0 leaves the ranking, which puts i3 third; the item expert saw three others all the same.
    made = [
        Prediction(id="t0", ranking=ranking, probabilities=(0.5, 0.3, 0.2)),
        Prediction(id="t1", ranking=ranking, candidates=4),
    ]
    system = align("s", made, data)
    pairs = make_pairs(turns, "new", data.positions)
    scores = score_pairs(pairs, system.rankings, data.positions)
    assert scores.rank.tolist() == [3, 4]
    assert fates(pairs, scores, data.positions, top_k=3) == ["not_picked", "not_in_top_k"]
    assert fates(pairs, scores, data.positions, top_k=4, system=system) == ["not_in_top_k", "not_picked"]
    # The fourth is no part of the top 3, whatever was seen.
    assert fates(pairs, scores, data.positions, top_k=3, system=system) == ["not_in_top_k", "not_in_top_k"]


def test_probabilities_of_a_whole_list_are_no_list_of_candidates(data):
    # A fusion states a probability of all that it retrieves, which no item expert has read.
    ranking = tuple(item.id for item in data.items if item.id != "i0")
    listed = (*ranking[:9], "i0", *ranking[9:])
    even = tuple(1 / len(listed) for _ in listed)
    system = align("fusion", [Prediction(id="t0", ranking=listed, probabilities=even)], data)
    pairs = make_pairs(data.turns[:1], "all", data.positions)
    scores = score_pairs(pairs, system.rankings, data.positions)
    for top_k, fate in ((9, "not_in_top_k"), (10, "not_picked")):
        assert fates(pairs, scores, data.positions, top_k=top_k, system=system) == [fate]


def test_groups_by_length_and_mentions(items):
    catalog = {item.id: n for n, item in enumerate(items)}
    turns = [
        Turn(id="short", dialog_id="a", messages=messages(1), targets=("i0",), mentioned=()),
        Turn(id="long", dialog_id="a", messages=messages(17), targets=("i1",), mentioned=("i2", "i3", "i2")),
        Turn(id="unlabelled", dialog_id="b", messages=messages(4), targets=("i1",)),
    ]
    assert [length_group(t) for t in turns] == ["1-4", "17+", "1-4"]
    assert [mention_group(t) for t in turns] == ["0", "2", "unknown"]
    pairs = make_pairs(turns, "all", catalog)
    scores = score_pairs(pairs, [("i0",), ("i0", "i1"), ()], catalog)
    groups = by_group(turns, pairs, scores, fates(pairs, scores, catalog, top_k=50))
    assert [(g["group"], g["pairs"], g["rec_success_rate"]) for g in groups["messages"]] == [
        ("1-4", 2, 0.5),
        ("17+", 1, 0.0),
    ]
    assert [g["group"] for g in groups["mentions"]] == ["0", "2", "unknown"]
    assert groups["mentions"][1]["recall@50"] == 1
    assert groups["mentions"][1]["not_picked"] == 1


def messages(count):
    return tuple(Message(role="user", content=str(n)) for n in range(count))
