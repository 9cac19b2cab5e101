import json

import pytest

from reges_index import QueryDecoding, ReGeSQueryEngine, ReGeSQueryTransform, Turn
from reges_index.dialogue import Message
from reges_index.engines.batch import predict_turns, prediction_row, require_turns
from reges_index.errors import ConfigError, InputError
from reges_index.evaluation.data import EvaluationData
from reges_index.evaluation.predictions import load
from reges_index.evaluation.report import report_result
from reges_index.evaluation.scoring import evaluate_systems
from reges_index.evaluation.settings import EvaluationSettings
from reges_index.files import RunLog
from reges_index.item_expert import ReasoningDecoding, ReGeSRerank

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
    log = RunLog(path, SETTINGS)
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
    with RunLog(path, SETTINGS) as log:
        predict_turns(engine, TURNS, log)
    target = next(iter(few_films.items())).id
    aimed = tuple(turn.model_copy(update={"targets": (target,)}) for turn in TURNS)
    data = EvaluationData(aimed, tuple(few_films.items()))
    evaluation = evaluate_systems(
        data, [load("mine", path, data)], settings=EvaluationSettings(resamples=100)
    )
    spent = [row for row in report_result(evaluation).rows if row.part == "Tokens a turn"]
    assert {row.setting: row.value for row in spent if row.metric == "sum"} == {
        stage: sum(row["tokens"][stage] for row in rows(path))
        for stage in ("query history", "rerank candidates")
    }
    assert all(row.value > 0 for row in spent if row.metric == "mean")


def test_reasoning_that_the_pipeline_writes_is_kept_to_learn_from(tmp_path, few_films, tiny):
    rerank = ReGeSRerank(tiny, mode="reason", reasoning=ReasoningDecoding(max_new_tokens=8))
    engine = ReGeSQueryEngine.from_defaults(few_films, rerank=rerank, similarity_top_k=4)
    path = tmp_path / "reasoning.jsonl"
    with RunLog(path, SETTINGS) as log:
        predict_turns(engine, TURNS, log)
    assert [row["id"] for row in rows(path) if not row["reasoning"]] == []
    silent = ReGeSQueryEngine.from_defaults(few_films, retriever="vectors")
    assert "reasoning" not in prediction_row(TURNS[0], silent.recommend(TURNS[0]))


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
    predict_turns(engine, TURNS, RunLog(path, SETTINGS))
    whole = path.read_bytes()
    predict_turns(engine, TURNS, RunLog(path, SETTINGS))
    assert path.read_bytes() == whole
    for cut in (1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        predict_turns(engine, TURNS, RunLog(path, SETTINGS))
        assert sorted(row["id"] for row in rows(path)) == ["a", "b", "c", "d"]
        assert untimed(path.read_bytes()) == untimed(whole)


def test_turns_that_are_others_now_are_refused(tmp_path, engine):
    path = tmp_path / "out.jsonl"
    with RunLog(path, SETTINGS) as log:
        predict_turns(engine, TURNS[:2], log)
    whole = path.read_bytes()
    for changed in (turn("b", "sad"), turn("b", "funny", mentioned=("f1",))):
        with (
            RunLog(path, SETTINGS) as log,
            pytest.raises(InputError, match="1 of its turns have other messages or mentions now: b"),
        ):
            require_turns(log, [TURNS[0], changed, TURNS[2]])
    assert path.read_bytes() == whole
    with RunLog(path, SETTINGS) as log:  # what was not predicted yet may be any, and more may come
        require_turns(log, [*TURNS[:2], turn("c", "new"), turn("e", "more")])


def test_mentioned_items_are_excluded_and_notes_counted(tmp_path, few_films, engine):
    excluding = ReGeSQueryEngine(
        engine.retriever,
        engine.query_transform,
        engine.rerank,
        exclude_mentioned=True,
    )
    everything = tuple(item.id for item in few_films.items())
    log = RunLog(tmp_path / "out.jsonl", SETTINGS)
    counts = predict_turns(excluding, [turn("a", "x", mentioned=everything), turn("b", "y " * 9000)], log)
    found = {row["id"]: row for row in rows(log.path)}
    assert found["a"]["recommendation"] is None
    assert found["a"]["ranking"] == found["a"]["probabilities"] == []
    assert found["b"]["recommendation"] in everything
    assert +counts == {"nothing_to_recommend": 1, "dialogues_cut": 1}
    with pytest.raises(ConfigError, match="batch_size"):
        predict_turns(excluding, TURNS, log, batch_size=0)
