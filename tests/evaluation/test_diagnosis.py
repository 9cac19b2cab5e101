from __future__ import annotations

from reges_index.dialogue import Message, Turn
from reges_index.evaluation.data import EvaluationData
from reges_index.evaluation.diagnosis import fates, group_rows, groups_of, lost_rows
from reges_index.evaluation.predictions import Prediction, align
from reges_index.evaluation.scoring import evaluate_systems
from reges_index.evaluation.settings import EvaluationSettings

from .conftest import make_turn


def fates_of(turns, items, made, *, top_k, protocol="all"):
    data = EvaluationData(tuple(turns), items)
    settings = EvaluationSettings(top_k=top_k, resamples=100)
    evaluation = evaluate_systems(data, [align("s", made, data)], settings=settings, baselines=False)
    return fates(evaluation, protocol)["s"]


def test_where_targets_are_lost(items):
    turns = [make_turn(n, "a", [t], []) for n, t in enumerate(["i0", "i1", "i2", "i3", "gone"])]
    rankings = [("i0",), ("i0", "i1"), ("i0", "i1", "i2"), ("i0",), ("gone",)]
    made = [Prediction(id=f"t{n}", ranking=ranking) for n, ranking in enumerate(rankings)]
    found = fates_of(turns, items, made, top_k=2)
    assert found == ["picked", "not_picked", "not_in_top_k", "not_in_top_k", "not_in_catalog"]


def test_a_system_that_says_what_it_saw_is_taken_at_its_word(items):
    turns = (make_turn(0, "a", ["i3"], ["i0"]), make_turn(1, "a", ["i3"], []))
    ranking = ("i0", "i1", "i2", "i3")
    # The mentioned i0 leaves the ranking, which puts i3 third; the item expert saw three others all the same.
    made = [
        Prediction(id="t0", ranking=ranking, probabilities=(0.5, 0.3, 0.2)),
        Prediction(id="t1", ranking=ranking, candidates=4),
    ]
    assert fates_of(turns, items, made, top_k=4, protocol="new") == ["not_in_top_k", "not_picked"]
    # The fourth is no part of the top 3, whatever was seen.
    assert fates_of(turns, items, made, top_k=3, protocol="new") == ["not_in_top_k", "not_in_top_k"]


def test_probabilities_of_a_whole_list_are_no_list_of_candidates(data):
    # A fusion states a probability of all that it retrieves, which no item expert has read.
    ranking = tuple(item.id for item in data.items if item.id != "i0")
    listed = (*ranking[:9], "i0", *ranking[9:])
    even = tuple(1 / len(listed) for _ in listed)
    made = [Prediction(id="t0", ranking=listed, probabilities=even)]
    for top_k, fate in ((9, "not_in_top_k"), (10, "not_picked")):
        assert fates_of(data.turns[:1], data.items, made, top_k=top_k) == [fate]


def messages(count):
    return tuple(Message(role="user", content=str(n)) for n in range(count))


def test_groups_by_length_and_mentions(items):
    turns = (
        Turn(id="short", dialog_id="a", messages=messages(1), targets=("i0",), mentioned=()),
        Turn(id="long", dialog_id="a", messages=messages(17), targets=("i1",), mentioned=("i2", "i3", "i2")),
        Turn(id="unlabelled", dialog_id="b", messages=messages(4), targets=("i1",)),
    )
    assert [groups_of(t) for t in turns] == [("1-4", "0"), ("17+", "2"), ("1-4", "unknown")]
    data = EvaluationData(turns, items)
    made = [Prediction(id="short", ranking=("i0",)), Prediction(id="long", ranking=("i0", "i1"))]
    evaluation = evaluate_systems(data, [align("s", made, data)], baselines=False)
    rows = [row for row in group_rows(evaluation) if row.protocol == "all"]
    success = [(row.setting, row.n, row.value) for row in rows if row.metric == "rec_success_rate"]
    assert success == [
        ("1-4 messages", 2, 0.5),
        ("17+ messages", 1, 0.0),
        ("0 mentions", 1, 1.0),
        ("2 mentions", 1, 0.0),
        ("unknown mentions", 1, 0.0),
    ]
    lost = {row.metric: row.value * row.n for row in lost_rows(evaluation) if row.protocol == "all"}
    assert {name: round(count) for name, count in lost.items()} == {
        "picked": 1, "in the top 50, not picked": 1, "not in the top 50": 1, "not in the catalog": 0,
    }  # fmt: skip
