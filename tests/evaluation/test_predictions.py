from __future__ import annotations

import json

import pytest

from reges_index.catalog.item import Item
from reges_index.errors import InputError
from reges_index.evaluation.data import EvaluationData
from reges_index.evaluation.predictions import Prediction, TitleMatcher, align, read_predictions

from .conftest import make_turn


def write(path, *rows):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def test_a_full_line_is_read(tmp_path):
    line = {
        "id": "t0", "query": "robots", "ranking": ["i0", 7], "probabilities": [0.6, 0.4],
        "recommendation": {"id": "i0", "title": "Title 0"}, "timings": {"retrieve": 0.1}, "more": 1,
    }  # fmt: skip
    (found,) = read_predictions(write(tmp_path / "p.jsonl", line))
    assert found.ranking == ("i0", "7")
    assert found.recommendation == "i0"
    assert found.timings == {"retrieve": 0.1}
    assert json.loads(found.model_dump_json(exclude_defaults=True))["more"] == 1
    assert "hallucinated" not in json.loads(found.model_dump_json(exclude_defaults=True))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "a"}, "ranking"),
        ({"ranking": []}, "id"),
        ({"id": "", "ranking": []}, "id"),
        ({"id": "a", "ranking": "i0"}, "expected a list"),
        ({"id": "a", "ranking": [1.5]}, "ranking"),
        ('{"id": "a", "ranking": ["i0"], "probabilities": [NaN]}', "NaN"),
        ({"id": "a", "ranking": ["i0"], "probabilities": [1.5]}, "outside 0 to 1"),
        ('{"id": "a", "ranking": [], "timings": {"rerank": NaN}}', "NaN is no number"),
        ('{"id": "a", "ranking": [], "tokens": {"prompt": -Infinity}}', "-Infinity is no number"),
        ('{"id": "a", "ranking": [], "tokens": {"prompt": 1e999}}', "1e999 is no number"),
        ('{"id": "a", "ranking": [], "mine": {"deep": [1, NaN]}}', "NaN is no number"),
        ({"id": "a", "ranking": [], "timings": {"rerank": "nan"}}, "timings.rerank: .*finite"),
        ('{"id": "a", "ranki', "not valid JSON"),
        ("[1]", "expected a JSON object"),
    ],
)
def test_a_bad_line_is_named(tmp_path, row, message):
    path = write(tmp_path / "p.jsonl", {"id": "ok", "ranking": []}, "", row)
    with pytest.raises(InputError, match=message) as error:
        read_predictions(path)
    assert f"{path}:3" in str(error.value)


def test_a_turn_predicted_twice_and_an_empty_file_are_errors(tmp_path):
    row = {"id": "a", "ranking": []}
    with pytest.raises(InputError, match=r"p\.jsonl:2: turn 'a' was predicted already, on line 1"):
        read_predictions(write(tmp_path / "p.jsonl", row, row))
    with pytest.raises(InputError, match="no prediction"):
        read_predictions(write(tmp_path / "p.jsonl"))
    with pytest.raises(InputError, match="no such file"):
        read_predictions(tmp_path / "absent.jsonl")
    (tmp_path / "p.jsonl").write_bytes(b'{"id": "\xff"}\n')
    with pytest.raises(InputError, match="not UTF-8"):
        read_predictions(tmp_path / "p.jsonl")


def test_what_does_not_fit_is_counted_and_nothing_is_lost(data):
    predictions = [
        Prediction(id="t0", ranking=("i1", "i1", "Nowhere", "Title 0", "i0")),
        Prediction(id="t1", ranking=()),
        Prediction(id="stranger", ranking=("i1",)),
    ]
    found = align("system", predictions, data)
    assert found.rankings == (("i1", "Nowhere", "i0"), (), (), (), ())
    assert found.counts == {
        "unknown_turns": 1,
        "missing_turns": 3,
        "empty_rankings": 1,
        "doubles_dropped": 2,
        "outside_catalog": 1,
        "ambiguous_titles": 0,
    }
    assert found.examples["outside_catalog"] == ["Nowhere"]
    assert found.matching["title"] == 1
    assert found.matching["id"] == 3


def test_predictions_for_other_conversations_are_refused(data):
    with pytest.raises(InputError, match="none of its 1 predictions"):
        align("system", [Prediction(id="stranger", ranking=("i1",))], data)


def test_hallucinations(data):
    predictions = [
        Prediction(id="t0", ranking=("i1",), answer="Title 3 (1993)"),
        Prediction(id="t1", ranking=("i1",), answer="A film I made up"),
        Prediction(id="t2", ranking=("i1",), hallucinated=True),
        Prediction(id="t3", ranking=("Made up too",)),
    ]
    assert align("system", predictions, data).hallucinated == (False, True, True, True, None)


CATALOG = (
    Item(id="heat95", title="Heat", year=1995),
    Item(id="heat86", title="Heat", year=1986),
    Item(id="matrix", title="The Matrix", year=1999),
    Item(id="amelie", title="Amélie", year=2001),
    Item(id="up", title="Up", year=2009),
    Item(id="nine", title="9", year=2009),
    Item(id="signs", title="!!!"),
    Item(id="twin1", title="Twin", year=2000),
    Item(id="twin2", title="Twin", year=2000),
)


@pytest.mark.parametrize(
    ("entry", "item", "kind"),
    [
        ("matrix", "matrix", "id"),
        ("The Matrix", "matrix", "title"),
        ("The Matrix (1999)", "matrix", "title"),
        ("the  matrix", "matrix", "title"),
        ("Matrix, The", "matrix", "title"),
        ("MATRIX, THE (1999)", "matrix", "title"),
        ("The Matrix (2000)", "matrix", "title"),
        ("The Matrix (2021)", None, "unmatched"),
        ("Ame\u0301lie", "amelie", "title"),
        ("Heat", "heat95", "ambiguous"),
        ("Heat (1986)", "heat86", "title"),
        ("heat [1986]", "heat86", "title"),
        ("Twin (2000)", "twin1", "ambiguous"),
        ("!!!", "signs", "title"),
        ("???", None, "unmatched"),
        ("", None, "unmatched"),
    ],
)
def test_titles_are_matched(entry, item, kind):
    found = TitleMatcher(CATALOG).match(entry)
    assert (found.item, found.kind) == (item, kind)


def test_ambiguous_titles_are_counted(items):
    data = EvaluationData((make_turn(0, "a", ["heat86"], []),), CATALOG)
    found = align("system", [Prediction(id="t0", ranking=("Heat", "Up"))], data)
    assert found.counts["ambiguous_titles"] == 1
    assert found.rankings == (("heat95", "up"),)


def test_an_empty_split_and_doubled_ids_are_errors(items):
    with pytest.raises(InputError, match="none of the 1 turns has a target"):
        EvaluationData((make_turn(0, "a", [], []),), items)
    turn = make_turn(0, "a", ["i0"], [])
    with pytest.raises(InputError, match="turn id 't0' occurs twice"):
        EvaluationData((turn, turn), items)
    with pytest.raises(InputError, match="item id 'i0' occurs twice"):
        EvaluationData((turn,), (items[0], items[0]))
    with pytest.raises(InputError, match="catalog is empty"):
        EvaluationData((turn,), ())


def test_the_hash_names_the_content(data, write_data):
    paths = write_data()
    read = EvaluationData.read(paths["turns"], paths["catalog"], paths["train"])
    assert read.hash == data.hash
    assert read.files["catalog"]["path"] == str(paths["catalog"])
    assert data.subset(data.turns[:2]).hash != data.hash
    assert EvaluationData(data.turns, data.items[:-1]).hash != data.hash
