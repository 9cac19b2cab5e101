import json

import pytest

from reges_index import QueryDecoding, ReGeSQueryEngine, ReGeSQueryTransform, Turn
from reges_index.dialogue import Message
from reges_index.engines.batch import PredictionLog, predict_turns
from reges_index.errors import ConfigError, InputError, StorageError
from reges_index.evaluation.data import EvaluationData
from reges_index.evaluation.predictions import load
from reges_index.evaluation.scoring import evaluate_systems
from reges_index.evaluation.settings import EvaluationSettings
from reges_index.evaluation.summary import summarize

SETTINGS = {"store": "s", "similarity_top_k": 4}


def turn(id_, text, mentioned=None):
    return Turn(id=id_, messages=(Message(role="user", content=text),), mentioned=mentioned)


TURNS = [
    turn("a", "a space film, please " * 9),
    turn("b", "funny"),
    turn("c", "old"),
    turn("d", "a {x} \x00"),
]


@pytest.fixture(scope="module")
def engine(few_films, tiny):
    transform = ReGeSQueryTransform(tiny, decoding=QueryDecoding(max_new_tokens=6))
    return ReGeSQueryEngine.from_defaults(few_films, llm=tiny, query_transform=transform, similarity_top_k=4)


def rows(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_row_for_every_turn(tmp_path, engine, few_films):
    path = tmp_path / "deep" / "out.jsonl"
    log = PredictionLog(path, SETTINGS)
    predict_turns(engine, TURNS, log, batch_size=3)
    found = {row["id"]: row for row in rows(path)}
    assert set(found) == {"a", "b", "c", "d"} == log.finished
    ids = {item.id for item in few_films.items()}
    for one in TURNS:
        row = found[one.id]
        result = engine.recommend(one)
        assert set(row) >= {"id", "query", "ranking", "probabilities", "recommendation"}
        assert set(row["timings"]) == {"query", "retrieval", "rerank"}
        assert row["tokens"] == {
            "query history": result.report["query"]["history_tokens"],
            "rerank candidates": result.report["rerank"]["candidate_tokens"],
        }
        assert row["ranking"] == result.ranking
        assert set(row["ranking"]) <= ids
        assert row["recommendation"] == row["ranking"][0]
        assert row["probabilities"] == pytest.approx([c.probability for c in result.candidates], rel=1e-3)


def test_reports_show_the_tokens_of_each_stage(tmp_path, engine, few_films):
    path = tmp_path / "out.jsonl"
    with PredictionLog(path, SETTINGS) as log:
        predict_turns(engine, TURNS, log)
    target = next(iter(few_films.items())).id
    aimed = tuple(turn.model_copy(update={"targets": (target,)}) for turn in TURNS)
    data = EvaluationData(aimed, tuple(few_films.items()))
    evaluation = evaluate_systems(
        data, [load("mine", path, data)], settings=EvaluationSettings(resamples=100)
    )
    tokens = summarize(evaluation)["systems"]["mine"]["tokens"]
    assert {stage: spent["sum"] for stage, spent in tokens.items()} == {
        stage: sum(row["tokens"][stage] for row in rows(path))
        for stage in ("query history", "rerank candidates")
    }
    assert all(spent["mean"] > 0 for spent in tokens.values())


def untimed(content):
    """The rows by id, without what differs from run to run."""
    found = {}
    for line in content.splitlines():
        row = json.loads(line)
        assert all(seconds >= 0 for seconds in row.pop("timings").values())
        found[row["id"]] = row
    return found


def test_a_second_run_does_nothing_and_a_killed_one_goes_on(tmp_path, engine):
    path = tmp_path / "out.jsonl"
    predict_turns(engine, TURNS, PredictionLog(path, SETTINGS))
    whole = path.read_bytes()
    predict_turns(engine, TURNS, PredictionLog(path, SETTINGS))
    assert path.read_bytes() == whole
    for cut in (1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        predict_turns(engine, TURNS, PredictionLog(path, SETTINGS))
        assert sorted(row["id"] for row in rows(path)) == ["a", "b", "c", "d"]
        assert untimed(path.read_bytes()) == untimed(whole)


def test_turns_that_are_others_now_are_refused(tmp_path, engine):
    path = tmp_path / "out.jsonl"
    with PredictionLog(path, SETTINGS) as log:
        predict_turns(engine, TURNS[:2], log)
    whole = path.read_bytes()
    for changed in (turn("b", "sad"), turn("b", "funny", mentioned=("f1",))):
        with (
            PredictionLog(path, SETTINGS) as log,
            pytest.raises(InputError, match="1 of its turns have other messages or mentions now: b"),
        ):
            log.require_turns([TURNS[0], changed, TURNS[2]])
    assert path.read_bytes() == whole
    with PredictionLog(path, SETTINGS) as log:  # what was not predicted yet may be any, and more may come
        log.require_turns([*TURNS[:2], turn("c", "new"), turn("e", "more")])
    old = [{key: value for key, value in row.items() if key != "dialogue_hash"} for row in rows(path)]
    path.write_text("".join(json.dumps(row) + "\n" for row in old), "utf-8")
    with PredictionLog(path, SETTINGS) as log:  # rows of a version that did not say
        log.require_turns([turn("a", "else")])


def test_other_settings_are_refused_and_nothing_changes(tmp_path, engine):
    path = tmp_path / "out.jsonl"
    predict_turns(engine, TURNS[:1], PredictionLog(path, SETTINGS))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(InputError, match="similarity_top_k"):
        PredictionLog(path, {**SETTINGS, "similarity_top_k": 5})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert PredictionLog(path, SETTINGS).finished == {"a"}


@pytest.mark.parametrize("content", ["my diary", "my diary\nof 1999", '{"id": "x"}', "\n{}\n"])
def test_a_file_of_somebody_elses_is_left_alone(tmp_path, content):
    path = tmp_path / "diary.txt"
    path.write_text(content)
    with pytest.raises(InputError, match=r"diary\.txt"):
        PredictionLog(path, SETTINGS)
    assert path.read_text() == content
    assert [file.name for file in tmp_path.iterdir()] == ["diary.txt"]


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "out.jsonl"
    PredictionLog(path, SETTINGS).write([{"id": "a"}])
    with path.open("a") as file:
        file.write("oops\n")
    with pytest.raises(InputError, match=r"out\.jsonl:2"):
        PredictionLog(path, SETTINGS)
    path.with_name("out.jsonl.run.json").write_text("{")
    with pytest.raises(InputError, match=r"out\.jsonl"):
        PredictionLog(path, SETTINGS)


def test_a_run_on_other_data_is_refused(tmp_path):
    path, inputs = tmp_path / "out.jsonl", {"catalog": "c1", "item_adapter": None}
    with PredictionLog(path, SETTINGS) as log:
        log.require_inputs({"catalog": "c0"})  # a run that wrote nothing binds nobody
    with PredictionLog(path, SETTINGS) as log:
        log.require_inputs(inputs)
        log.write([{"id": "a"}])
        log.require_inputs(inputs)
    with PredictionLog(path, SETTINGS) as log:
        log.require_inputs(inputs)
        for other in (
            {**inputs, "catalog": "c2"},
            {"catalog": "c2"},
            {**inputs, "catalog": "c2", "new": None},
        ):
            with pytest.raises(InputError, match=r"changed since: catalog \(then c1, now c2\)"):
                log.require_inputs(other)
        with pytest.raises(InputError, match=r"item_adapter \(then None, now x\)"):
            log.require_inputs({**inputs, "item_adapter": "x"})
    old = tmp_path / "old.jsonl"
    with PredictionLog(old, SETTINGS) as log:
        log.write([{"id": "a"}])
        with pytest.raises(InputError, match="does not say from which catalog"):
            log.require_inputs(inputs)


def test_one_log_at_a_time_has_the_file(tmp_path):
    path = tmp_path / "out.jsonl"
    with PredictionLog(path, SETTINGS) as log:
        log.write([{"id": "a"}])
        with pytest.raises(InputError, match=r"another process writes to .*out\.jsonl"):
            PredictionLog(path, SETTINGS)
        PredictionLog(tmp_path / "other.jsonl", SETTINGS).close()
        log.write([{"id": "b"}])
    path.with_name("out.jsonl.run.json").write_text("{}")
    with pytest.raises(InputError, match="other settings"):
        PredictionLog(path, SETTINGS)
    path.with_name("out.jsonl.run.json").write_text(json.dumps(SETTINGS))
    with PredictionLog(path, SETTINGS) as log:  # what was refused has let go of it
        assert log.finished == {"a", "b"}


def test_settings_that_came_later(tmp_path):
    path = tmp_path / "out.jsonl"
    with PredictionLog(path, SETTINGS) as log:
        log.write([{"id": "a"}])
    now = {**SETTINGS, "fast": False}
    for settings in (now, SETTINGS):
        with PredictionLog(path, settings, formerly={"fast": False}) as log:
            assert log.finished == {"a"}
    for settings, formerly in (
        ({**now, "fast": True}, {"fast": False}),
        ({**now, "similarity_top_k": 5}, {"fast": False}),
        (now, {}),
    ):
        with pytest.raises(InputError, match="other settings"):
            PredictionLog(path, settings, formerly=formerly)


def test_settings_may_be_paths_and_tuples(tmp_path):
    settings = {"store": tmp_path, "layers": (1, 2)}
    PredictionLog(tmp_path / "out.jsonl", settings).write([{"id": "\ud800"}])
    assert PredictionLog(tmp_path / "out.jsonl", settings).finished == {"\ud800"}


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot be written"):
        PredictionLog(tmp_path / "file" / "out.jsonl", SETTINGS)
    log = PredictionLog(tmp_path / "out.jsonl", SETTINGS)
    (tmp_path / "out.jsonl").mkdir()
    with pytest.raises(StorageError, match="finished predictions are kept"):
        log.write([{"id": "a"}])
    assert log.finished == set()


def test_mentioned_items_are_excluded_and_notes_counted(tmp_path, few_films, engine):
    excluding = ReGeSQueryEngine(
        engine._retrieve_with,
        engine.query_transform,
        engine.rerank,
        similarity_top_k=4,
        exclude_mentioned=True,
    )
    everything = tuple(item.id for item in few_films.items())
    log = PredictionLog(tmp_path / "out.jsonl", SETTINGS)
    predict_turns(excluding, [turn("a", "x", mentioned=everything), turn("b", "y " * 9000)], log)
    found = {row["id"]: row for row in rows(log.path)}
    assert found["a"]["recommendation"] is None
    assert found["a"]["ranking"] == found["a"]["probabilities"] == []
    assert found["b"]["recommendation"] in everything
    assert +log.counts == {"nothing_to_recommend": 1, "dialogues_cut": 1}
    with pytest.raises(ConfigError, match="batch_size"):
        predict_turns(excluding, TURNS, log, batch_size=0)
