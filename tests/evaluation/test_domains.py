"""Shops of many kinds: reading, scoring by hand-made rankings, and an encoder alone."""

import json

import pytest
from typer.testing import CliRunner

from reges_index.cli.app import app
from reges_index.errors import InputError
from reges_index.evaluation.domains import (
    MEAN,
    measure_encoder,
    rank_by_vectors,
    read_domains,
    read_topic_changes,
    score_domains,
    topic_shares,
)


def _lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _turn(number, said, target, *, suitable=(), mentioned=(), query="", dialogue=1):
    return {
        "id": f"t{number}", "dialog_id": f"d{dialogue}", "messages": [{"role": "user", "content": said}],
        "targets": [target], "suitable": [target, *suitable], "mentioned": list(mentioned), "query": query,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for name in ("teas", "walks"):
        items = [
            {"id": f"{name}-{i}", "title": title, "abstract": about}
            for i, (title, about) in enumerate(
                [
                    ("Assam", "black and malty"),
                    ("Sencha", "green and grassy"),
                    ("Rooibos", "red, no caffeine"),
                ]
            )
        ]
        _lines(tmp_path / "dev" / name / "catalog.jsonl", items)
        turns = [
            _turn(1, "something malty", f"{name}-0", suitable=[f"{name}-1"], query="black malty tea"),
            _turn(2, "no caffeine", f"{name}-2", mentioned=[f"{name}-1"], query="no caffeine", dialogue=2),
        ]
        _lines(tmp_path / "dev" / name / "turns.jsonl", turns)
    (tmp_path / "nouns.json").write_text('{"teas": "tea"}')
    return tmp_path / "dev"


def test_domains_are_read_with_their_nouns_and_a_limit(folder):
    teas, walks = read_domains(folder)
    assert (teas.name, teas.domain.noun, walks.domain.noun) == ("teas", "tea", "item")
    assert teas.suitable["t1"] == ("teas-0", "teas-1")
    assert [len(own.data.turns) for own in read_domains(folder, limit=1)] == [1, 1]
    assert [own.name for own in read_domains(folder / "walks")] == ["walks"]
    with pytest.raises(InputError):
        read_domains(folder.parent.parent / "nothing")


def test_named_items_leave_the_ranking_and_the_mean_weighs_domains_alike(folder):
    domains = read_domains(folder)
    good = {"t1": ["teas-0"], "t2": ["teas-1", "teas-2"]}  # teas-1 was named, so teas-2 is the first
    poor = {"t1": ["walks-1", "walks-0"]}  # suitable, not the target; nothing for the other turn
    table = score_domains(domains, {"mine": {"teas": good, "walks": poor}}, resamples=200)
    found = {place: {m: e.value for m, e in own.items()} for place, own in table.values["mine"].items()}
    assert found["teas"] == {"recall@1": 1, "suitable@1": 1, "recall@5": 1, "recall@10": 1, "mrr": 1}
    assert found["walks"] == {
        "recall@1": 0,
        "suitable@1": 0.5,
        "recall@5": 0.5,
        "recall@10": 0.5,
        "mrr": 0.25,
    }
    assert found[MEAN]["recall@5"] == 0.75
    assert (table.turns[MEAN], table.dialogues[MEAN]) == (4, 4)
    interval = table.values["mine"][MEAN]["recall@5"]
    assert interval.low < 0.75 < interval.high


def test_vectors_rank_by_cosine(folder):
    ranked = rank_by_vectors(
        read_domains(folder)[0], {"t1": [0.0, 2.0]}, [[9.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    )
    assert ranked == {"t1": ["teas-1", "teas-2", "teas-0"]}


def test_an_encoder_finds_what_the_words_say(folder):
    table = measure_encoder(folder, "embedded", resamples=100)
    assert table.values["pseudo-query (oracle)"][MEAN]["recall@1"].value == 1.0
    assert "last message" in table.text()


def test_the_command_writes_the_table(folder, tmp_path):
    options = ["evaluate", "--experiment", "domains", "--domains", str(folder), "--rows", "stock"]
    outcome = CliRunner().invoke(app, [*options, "--out", str(tmp_path / "out"), "--resamples", "100"])
    assert outcome.exit_code == 0, outcome.output
    made = json.loads((tmp_path / "out" / "domains.json").read_text())
    assert {row["setting"] for row in made["rows"]} == {"mean of 2 domains", "teas", "walks"}
    assert CliRunner().invoke(app, [*options, "--conversations", "x"]).exit_code != 0


def test_the_drop_in_is_measured_as_the_guide_has_it(folder, tmp_path):
    options = ["evaluate", "--experiment", "domains", "--domains", str(folder), "--rows", "drop-in"]
    outcome = CliRunner().invoke(app, [*options, "--out", str(tmp_path / "out"), "--resamples", "100"])
    assert outcome.exit_code == 0, outcome.output
    made = json.loads((tmp_path / "out" / "domains.json").read_text())
    assert {row["system"] for row in made["rows"]} == {"drop-in of the guide, no LLM"}
    ranked = [json.loads(line) for line in (tmp_path / "out" / "runs" / "domains-drop-in-teas.jsonl").open()]
    assert {row["id"]: row["ranking"][0] for row in ranked} == {"t1": "teas-0", "t2": "teas-2"}


def test_the_dialogues_with_a_change_of_topic_say_what_fits_which_wish():
    domains = read_topic_changes()
    turns = {own.name: own.data.turns for own in domains}
    assert set(turns) == {"films", "books", "cocktails"}
    assert sum(map(len, turns.values())) >= 40
    for own in domains:
        known = {item.id for item in own.data.items}
        for turn in own.data.turns:
            new, before, named = set(turn.targets), set(own.old[turn.id]), set(turn.mentioned)
            assert new
            assert before
            assert (new | before | named) <= known
            assert not new & before
            assert not named & (new | before)
            assert turn.messages[-1].role == "user"


def test_the_first_item_that_was_not_named_decides_which_wish_is_met():
    domains = read_topic_changes()
    ranked = {}
    for own in domains:
        ranked[own.name] = {t.id: [*t.mentioned, t.targets[0]] for t in own.data.turns}
    first = domains[0].data.turns[0]
    ranked["films"][first.id] = [min(domains[0].old[first.id])]
    shares = topic_shares(domains, ranked)
    assert shares[0].tolist() == [0, 1]
    assert shares[1:].tolist() == [[1, 0]] * (len(shares) - 1)


def test_the_command_reports_on_a_change_of_topic(tmp_path):
    options = ["evaluate", "--experiment", "topic_change", "--rows", "stock", "--resamples", "100"]
    outcome = CliRunner().invoke(app, [*options, "--out", str(tmp_path)])
    assert outcome.exit_code == 0, outcome.output
    rows = json.loads((tmp_path / "topic_change.json").read_text())["rows"]
    assert {row["metric"] for row in rows} == {"fits the new wish", "fits the old wish"}
    assert all(row["n"] >= 40 for row in rows)
