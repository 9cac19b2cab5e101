"""Pseudo-queries and reasoning from a teacher that is real: LlamaIndex's client against a server."""

import json
import logging
import time
import traceback
from dataclasses import asdict

import pytest
from llama_index.llms.openai_like import OpenAILike

from reges_index.errors import ConfigError, InputError, ModelError
from reges_index.files import checked
from reges_index.models.llm import ReGeSLLM
from reges_index.training.pseudo_queries import read_notes, write_notes
from reges_index.training.teacher import Teacher, TeacherSettings

from .films import items, turn, turns
from .openai_server import Reply, chat_server

FAST = TeacherSettings(first_wait_s=0.01, longest_wait_s=0.5, concurrency=3)


def client(url, **options):
    return OpenAILike(
        model="teacher", api_base=url, api_key="sk-secret-1234", is_chat_model=True, max_retries=0, **options
    )


def query_for(prompt, number):
    return Reply(f"film of kind {prompt.split('of kind ')[1][0]}")


def test_one_line_a_turn_with_the_papers_prompt(tmp_path):
    out = tmp_path / "pq.jsonl"
    with chat_server(query_for) as server:
        prices = TeacherSettings(first_wait_s=0.01, concurrency=3, price_in=2.0, price_out=10.0)
        report = write_notes(turns(6), items(), client(server.url), out, settings=prices)
    assert read_notes(out, "query", turns=turns(6)) == {f"t{n}": f"film of kind {n}" for n in range(6)}
    assert (report.written, report.requests, report.retries) == (6, 6, 0)
    assert (report.prompt_tokens, report.new_tokens, report.tokens_estimated) == (600, 60, False)
    assert report.cost == pytest.approx((600 * 2 + 60 * 10) / 1e6)
    prompt = next(p for p in server.prompts if "of kind 0" in p)
    assert prompt.startswith("Find the common concepts between the conversation history")
    assert "seeker: I want a film of kind 0 tonight.\nrecommender: With stars?\nseeker: No stars." in prompt
    assert "Ground truth items: Dust over Carmel (1994)" in prompt
    json.dumps(asdict(report))


def test_requests_under_way_are_bounded(tmp_path):
    with chat_server(lambda p, n: Reply("a query", delay_s=0.2)) as server:
        write_notes(turns(9), items(), client(server.url), tmp_path / "pq.jsonl", settings=FAST)
    assert server.most_at_once == 3


def test_a_finished_file_costs_nothing_and_a_begun_one_only_the_rest(tmp_path):
    out = tmp_path / "pq.jsonl"
    with chat_server(query_for) as server:
        llm = client(server.url)
        write_notes(turns(3), items(), llm, out, settings=FAST)
        with out.open("a") as file:
            file.write('{"id": "t3", "que')  # killed in the middle of a line
        report = write_notes(turns(6), items(), llm, out, settings=FAST)
        assert (report.already, report.written, report.repaired_bytes) == (3, 3, 17)
        report = write_notes(turns(6), items(), llm, out, settings=FAST)
        assert (report.already, report.written, report.requests) == (6, 0, 0)
        assert len(server.prompts) == 6
    assert len(read_notes(out, "query", turns=turns(6))) == 6


FAULTS = {
    "rate limit": Reply(status=429),
    "server error": Reply(status=500),
    "overloaded": Reply(status=503),
    "cut connection": Reply("never arrives", cut=True),
    "hung up": Reply(hang_up=True),
    "slow": Reply("too late", delay_s=3.0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_passing_faults_are_retried(tmp_path, fault, caplog):
    out = tmp_path / "pq.jsonl"
    timeout = 1.0 if fault == "slow" else 60.0
    settings = TeacherSettings(first_wait_s=0.01, longest_wait_s=0.02, concurrency=2)

    def script(prompt, number):
        return FAULTS[fault] if number in (0, 3) else query_for(prompt, number)

    with chat_server(script) as server, caplog.at_level(logging.WARNING):
        llm = client(server.url, timeout=timeout)
        report = write_notes(turns(4), items(), llm, out, settings=settings)
    assert read_notes(out, "query") == {f"t{n}": f"film of kind {n}" for n in range(4)}
    assert (report.written, report.failed) == (4, {})
    # On a busy machine a second can be too short for a good answer too.
    assert report.retries >= 2 if fault == "slow" else report.retries == 2
    assert "attempt 2 of " in caplog.text
    assert "secret" not in caplog.text


def test_a_server_that_asks_for_patience_gets_it(tmp_path):
    def script(prompt, number):
        return Reply(status=429, headers={"retry-after": "0.4"}) if number == 0 else Reply("a query")

    with chat_server(script) as server:
        started = time.monotonic()
        write_notes(turns(1), items(), client(server.url), tmp_path / "pq.jsonl", settings=FAST)
    assert time.monotonic() - started >= 0.4


def test_a_turn_that_fails_for_good_is_listed_and_asked_for_again(tmp_path):
    out = tmp_path / "pq.jsonl"
    settings = TeacherSettings(first_wait_s=0.0, max_retries=1, concurrency=1)
    bad = {"kind 2": Reply("too long for me", status=400), "kind 4": Reply(status=500)}

    def script(prompt, number):
        return next((reply for key, reply in bad.items() if key in prompt), None) or query_for(prompt, number)

    with chat_server(script) as server:
        llm = client(server.url)
        report = write_notes(turns(6), items(), llm, out, settings=settings)
        assert sorted(report.failed) == ["t2", "t4"]
        assert "HTTP 400" in report.failed["t2"]
        assert "gave no answer after 2 attempts" in report.failed["t4"]
        assert report.written == 4
        bad.clear()
        assert write_notes(turns(6), items(), llm, out, settings=settings).written == 2


def test_a_wrong_key_ends_the_run_at_once_and_is_not_printed(tmp_path):
    message = "Incorrect API key provided: sk-secret-1234"
    with chat_server(lambda p, n: Reply(message, status=401)) as server:
        with pytest.raises(ModelError, match="HTTP 401") as caught:
            write_notes(
                turns(6), items(), client(server.url), tmp_path / "x", settings=TeacherSettings(concurrency=1)
            )
        told = "".join(traceback.format_exception(caught.value))
        assert "Incorrect API key provided: ***" in told
        assert "secret" not in told
        assert len(server.prompts) == 1


def test_a_dead_server_ends_the_run_and_keeps_what_is_there(tmp_path):
    out = tmp_path / "pq.jsonl"
    settings = TeacherSettings(first_wait_s=0.0, max_retries=1, concurrency=1, patience=2)
    with chat_server(lambda p, n: query_for(p, n) if n < 3 else Reply(hang_up=True)) as server:
        with pytest.raises(ModelError, match="2 turns in a row") as caught:
            write_notes(turns(9), items(), client(server.url), out, settings=settings)
        assert len(server.prompts) == 3 + 2 * 2
    assert "3 new lines are kept" in caught.value.hint
    assert len(read_notes(out, "query")) == 3


def test_leaks_are_asked_for_once_more_with_a_reminder_then_left_out(tmp_path):
    out = tmp_path / "pq.jsonl"
    three = [
        turn("once", "a western please"),
        turn("always", "an ancient western please"),
        turn("held", "more like Dust over Carmel"),
    ]

    def script(prompt, number):
        reminded = "Do not name Dust over Carmel" in prompt
        return Reply("dusty western" if reminded and "ancient" not in prompt else "western Dust over Carmel")

    with chat_server(script) as server:
        report = write_notes(three, items(), client(server.url), out, settings=FAST)
        assert read_notes(out, "query") == {"once": "dusty western", "held": "western Dust over Carmel"}
        assert (report.leaked_first, report.requests) == (2, 5)
        assert report.left_out == {"naming a target twice": ["always"]}
        left_out = json.loads((tmp_path / "pq.jsonl.left-out.jsonl").read_text())
        assert left_out == {
            "id": "always", "reason": "leak", "titles": ["Dust over Carmel"],
            "query": "western Dust over Carmel",
        }  # fmt: skip
        again = write_notes(three, items(), client(server.url), out, settings=FAST)
        assert (again.requests, again.already) == (0, 3)
        free = write_notes(
            three, items(), client(server.url), tmp_path / "free", settings=FAST, filter_leaks=False
        )
        assert (free.written, free.leaked_first) == (3, 0)


def test_empty_answers_and_turns_without_known_target_are_listed(tmp_path):
    given = [
        turn("empty", "say nothing"),
        turn("label", "answer with a label"),
        turn("targetless", "hello", targets=()),
        turn("unknown", "hello", targets=("nowhere",)),
        turn("half", "hello", targets=("nowhere", "f8")),
    ]
    answers = {"nothing": "  \n", "label": 'Search query: "a quiet western"\nExplanation: it is quiet.'}

    def script(prompt, number):
        return Reply(next((text for key, text in answers.items() if key in prompt), "a query"))

    out = tmp_path / "pq.jsonl"
    with chat_server(script) as server:
        report = write_notes(given, items(), client(server.url), out, settings=FAST)
    assert read_notes(out, "query") == {"label": "a quiet western", "half": "a query"}
    assert report.left_out == {
        "of no use twice": ["empty"], "without target": ["targetless"],
        "no target in the catalog": ["unknown"],
    }  # fmt: skip


def test_answers_without_usage_are_counted_here_and_cut_ones_noted(tmp_path):
    with chat_server(lambda p, n: Reply("a long query", usage=False, finish="length")) as server:
        report = write_notes(turns(2), items(), client(server.url), tmp_path / "x", settings=FAST)
    assert report.tokens_estimated
    assert report.prompt_tokens > 100
    assert report.new_tokens == 6
    assert report.answers_cut == 2


def test_long_histories_are_cut_from_the_oldest_end_and_counted(tmp_path):
    settings = TeacherSettings(max_input_tokens=400, max_new_tokens=32)
    long = turn("long", *[f"message {n} " + "word " * 30 for n in range(40)], "newest words")
    with chat_server(lambda p, n: Reply("a query")) as server:
        report = write_notes([long], items(), client(server.url), tmp_path / "x", settings=settings)
    assert report.histories_cut == 1
    assert "message 0 " not in server.prompts[0]
    assert "newest words" in server.prompts[0]
    with pytest.raises(InputError, match="turn long: the prompt without the dialogue"):
        write_notes(
            [long], items(), client("http://127.0.0.1:9/v1"), tmp_path / "y",
            settings=TeacherSettings(max_input_tokens=128),
        )  # fmt: skip


async def test_inside_a_running_event_loop(tmp_path):
    with chat_server(query_for) as server:
        report = write_notes(turns(2), items(), client(server.url), tmp_path / "x", settings=FAST)
    assert report.written == 2


def test_another_teacher_may_not_continue_the_file(tmp_path):
    out = tmp_path / "pq.jsonl"
    with chat_server(query_for) as server:
        write_notes(turns(1), items(), client(server.url), out, settings=FAST)
        other = OpenAILike(model="other", api_base=server.url, api_key="k", is_chat_model=True)
        with pytest.raises(InputError, match="teacher was 'teacher', now 'other'"):
            write_notes(turns(2), items(), other, out, settings=FAST)
        with pytest.raises(InputError, match="task was 'query', now 'reasoning'"):
            write_notes(turns(2), items(), client(server.url), out, kind="reasoning", settings=FAST)


def test_a_local_model_runs_in_order(tmp_path):
    from tests.tiny import tiny_lm

    lm, out = tiny_lm(), tmp_path / "pq.jsonl"
    settings = TeacherSettings(max_new_tokens=6, concurrency=4)
    seen = []
    report = write_notes(
        turns(3), items(), lm, out, settings=settings, filter_leaks=False,
        progress=lambda done, of: seen.append((done, of)),
    )  # fmt: skip
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert report.written + len(report.left_out.get("of no use twice", ())) == 3
    assert report.written >= 1
    assert not report.tokens_estimated
    assert report.new_tokens <= 6 * report.requests
    assert [row["id"] for row in map(json.loads, out.read_text().splitlines())] == sorted(
        read_notes(out, "query")
    )
    as_llm = write_notes(
        turns(3), items(), ReGeSLLM(lm), tmp_path / "y", settings=settings, filter_leaks=False
    )
    assert (tmp_path / "y").read_text() == out.read_text()
    assert as_llm.prompt_tokens == report.prompt_tokens


def test_reasoning_is_made_by_the_same_machinery(tmp_path):
    out = tmp_path / "cot.jsonl"
    answer = "Summary: The seeker likes\nold westerns."
    with chat_server(lambda p, n: Reply(answer)) as server:
        report = write_notes(turns(2), items(), client(server.url), out, kind="reasoning", settings=FAST)
    assert report.written == 2
    assert read_notes(out, "reasoning", turns=turns(2))["t0"] == "The seeker likes old westerns."
    assert "step by step" in server.prompts[0]
    assert "Ground truth items: " in server.prompts[0]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"id": "t0", "query": "again"}', "'t0' was used on line 1"),
        ('{"id": "t1", "query": " "}', "'query' of 't1' is empty"),
        ('{"id": "t1"}', "'query' of 't1' is missing"),
        ('{"query": "x"}', "has no 'id'"),
        ('{"id": "z9", "query": "x"}', "'z9' is none of the 3 turns"),
        ('{"id": "t1", "query": "x"', "not valid JSON"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_line(tmp_path, line, problem):
    file = tmp_path / "pq.jsonl"
    file.write_text('{"id": "t0", "query": "a query"}\n\n' + line + "\n")
    with pytest.raises(InputError) as caught:
        read_notes(file, "query", turns=turns(3))
    assert "pq.jsonl:3: " in str(caught.value)
    assert problem in str(caught.value)


def test_an_empty_or_missing_file(tmp_path):
    (tmp_path / "pq.jsonl").write_text("\n")
    with pytest.raises(InputError, match="nothing in it"):
        read_notes(tmp_path / "pq.jsonl", "query")
    with pytest.raises(InputError, match="no such file"):
        read_notes(tmp_path / "nowhere.jsonl", "query")


class TestNames:
    def test_a_server_by_name_reads_its_key_from_the_environment(self, tmp_path, monkeypatch):
        monkeypatch.setenv("OPENAI_LIKE_API_KEY", "from-the-environment")
        with chat_server(query_for) as server:
            name = f"openai-like:some/model:8b@{server.url}"
            report = write_notes(turns(1), items(), name, tmp_path / "x", settings=FAST)
        assert server.keys == {"Bearer from-the-environment"}
        assert report.teacher == "some/model:8b"

    @pytest.mark.parametrize(
        ("spec", "problem"),
        [
            ("", "empty"),
            ("openai-like:model", "not of the form"),
            ("openai-like:model@localhost:80", "not of the form"),
            ("openai-like:@http://x/v1", "not of the form"),
            ("openai:gpt-4o", "OPENAI_API_KEY"),
            ("openai:", "a model's name"),
        ],
    )
    def test_malformed_names(self, spec, problem, monkeypatch):
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with pytest.raises(ConfigError, match=problem):
            Teacher(spec, FAST)

    @pytest.mark.parametrize(
        "spec",
        [
            "openai-like:m@http://me:hunter2@host/v1",
            "openai-like:m@http://host/v1?key=hunter2",
            "openai-like:m@me:hunter2@host",
        ],
    )
    def test_a_secret_in_the_url_is_refused_without_repeating_it(self, spec):
        with pytest.raises(ConfigError, match="teacher") as caught:
            Teacher(spec, FAST)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 0},
        {"max_retries": -1},
        {"timeout_s": 0},
        {"price_in": 1.0},
        {"price_in": -1, "price_out": 1},
    ],
)
def test_settings_that_cannot_be_used(options):
    with pytest.raises(ConfigError):
        checked(TeacherSettings, options, where="settings")
