from __future__ import annotations

import json
import time

import pytest

from tests.cli.conftest import FILMS, TURNS, call, film_rows, reges, start, write_jsonl
from tests.tiny import save_tiny_adapter

pytestmark = pytest.mark.timeout(900)  # far from needed, unless the machine is busy

IDS = {film[0] for film in FILMS}


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def predict(store, turns, tiny, tmp_path):
    """Predict with the random model, into a file of this test."""

    def run(*words, run=call, conversations=turns, out=tmp_path / "out.jsonl"):
        fixed = ("predict", "--store", store, "--model", tiny, "--conversations", conversations, "--out", out)
        return run(*fixed, "--quiet", *words)

    return run


def test_a_line_for_every_turn_with_the_embedded_models(store, turns, tmp_path):
    out = tmp_path / "new folder" / "out.jsonl"
    words = ("predict", "--store", store, "--conversations", turns, "--out", out, "--similarity-top-k", 4)
    first = reges(*words, "--limit", 2)
    assert first.code == 0
    assert "predicting" in first.err  # the bar
    assert "100%" in first.err
    assert "Loading" not in first.err
    assert "2 predicted" in first.out
    found = rows(out)
    assert {row["id"] for row in found} == {"t0", "t1"}
    for row in found:
        assert set(row) >= {"id", "query", "ranking", "probabilities", "recommendation"}
        assert row["query"] is None
        assert len(row["ranking"]) == len(row["probabilities"]) == 4
        assert set(row["ranking"]) <= IDS
        assert row["recommendation"] == row["ranking"][0]
        # Among all items of the catalog: what the four have together.
        assert 0 < sum(row["probabilities"]) < 1
        assert row["probabilities"] == sorted(row["probabilities"], reverse=True)
    everything = tmp_path / "all.jsonl"
    assert reges(*words[:6], everything, "--similarity-top-k", 500, "--limit", 1).code == 0
    assert sum(rows(everything)[0]["probabilities"]) == pytest.approx(1)


def test_the_ranking_is_all_that_was_retrieved(predict, tmp_path):
    words = ("--rerank-top-k", 3, "--similarity-top-k", 500, "--allow-mentioned", "--json")
    report = predict(*words).json
    assert (report["turns"], report["predicted"], report["done_before"]) == (6, 6, 0)
    for row in rows(tmp_path / "out.jsonl"):
        assert sorted(row["ranking"]) == sorted(IDS)
        assert len(row["probabilities"]) == 3


def test_a_second_run_does_nothing_and_needs_no_model(predict, store, turns, tiny, tmp_path):
    assert predict("--limit", 2, "--json").json["predicted"] == 2
    assert predict("--json").json["done_before"] == 2
    out = tmp_path / "out.jsonl"
    before = out.read_bytes()
    assert sorted(row["id"] for row in rows(out)) == [f"t{number}" for number in range(len(TURNS))]
    # Neither store nor model is opened, which a store that is not there proves; nor is torch imported.
    settings = out.with_name("out.jsonl.run.json")
    kept = settings.read_text()
    settings.write_text(kept.replace(str(store), str(tmp_path / "gone")).replace(str(tiny), "no-such/model"))
    again = reges(
        "predict", "--store", tmp_path / "gone", "--model", "no-such/model", "--conversations", turns,
        "--out", out, "--json",
    )  # fmt: skip
    assert again.json == {"out": str(out), "turns": 6, "done_before": 6, "predicted": 0}
    assert again.err == ""
    assert out.read_bytes() == before


def test_kill_in_the_middle_and_run_again(predict, tmp_path):
    out = tmp_path / "out.jsonl"
    # The embedded model, a turn at a time: slow enough to be hit between two lines.
    words = ("--model", "embedded", "--retriever", "vectors", "--batch-size", 1, "--similarity-top-k", 12)
    process = predict(*words, run=start)
    deadline = time.monotonic() + 840
    while not (out.is_file() and out.read_bytes().count(b"\n")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    done = out.read_bytes().count(b"\n")
    assert 0 < done < len(TURNS)
    with out.open("ab") as file:
        file.write(b'{"id": "t5", "que')  # what a kill in the middle of a write leaves
    report = predict(*words, "--json").json
    assert report["done_before"] == done
    assert report["predicted"] == len(TURNS) - done
    assert sorted(row["id"] for row in rows(out)) == [f"t{number}" for number in range(len(TURNS))]


def test_other_settings_do_not_mix(predict, tmp_path):
    assert predict("--limit", 1).code == 0
    out = tmp_path / "out.jsonl"
    before = out.read_bytes()
    predict("--similarity-top-k", 3, "--domain", "book").fails(
        2, "domain, similarity_top_k", "another output file"
    )
    beside = out.with_name("out.jsonl.run.json")
    beside.write_text("{")
    predict().fails(2, "does not say how it was made")
    beside.unlink()
    predict().fails(2, "does not say how it was made")
    assert out.read_bytes() == before


def test_another_catalog_or_adapter_under_the_same_name_is_refused(
    predict, store, films, tiny, turns, tmp_path
):
    mine = tmp_path / "mine"
    assert call("index", films, "--store", mine, "--quiet").code == 0
    adapter = save_tiny_adapter(tmp_path / "adapter")
    words = (
        "predict", "--store", mine, "--model", tiny, "--item-adapter", adapter, "--conversations", turns,
        "--out", tmp_path / "out.jsonl", "--quiet",
    )  # fmt: skip
    assert call(*words, "--limit", 2).code == 0
    out = tmp_path / "out.jsonl"
    before = out.read_bytes()
    rows_now = film_rows()
    rows_now[0]["abstract"] = "Another story."
    assert call("index", write_jsonl(tmp_path / "new.jsonl", rows_now), "--store", mine, "--quiet").code == 0
    found = call(*words)
    found.fails(2, "has changed since: catalog (then", "another output file")
    assert "adapter (" not in found.err
    assert call("index", films, "--store", mine, "--quiet").code == 0
    save_tiny_adapter(adapter, seed=1)
    found = call(*words)
    found.fails(2, "has changed since: item_adapter (then")
    assert "catalog (" not in found.err
    assert out.read_bytes() == before
    # What is finished needs neither: nothing is added to it.
    assert call(*words, "--limit", 2).code == 0
    save_tiny_adapter(adapter, seed=0)
    assert call(*words, "--json").json["predicted"] == 4


def test_conversations_that_changed_under_the_same_ids_are_refused(predict, turns, tmp_path):
    assert predict("--limit", 2).code == 0
    before = (tmp_path / "out.jsonl").read_bytes()
    changed = rows(turns)
    changed[0]["messages"][0]["content"] += " And funny."
    predict(conversations=write_jsonl(tmp_path / "changed.jsonl", changed)).fails(
        2, f"1 of its turns have other messages or mentions now: {changed[0]['id']}", "another output file"
    )
    assert (tmp_path / "out.jsonl").read_bytes() == before


def test_the_same_store_by_another_path_is_the_same(predict, store, turns, tiny, tmp_path, monkeypatch):
    assert predict("--limit", 1).code == 0
    monkeypatch.chdir(store.parent)
    words = ("--model", tiny, "--conversations", turns, "--out", tmp_path / "out.jsonl", "--limit", 1)
    assert call("predict", "--store", "store/", *words).code == 0


def test_a_password_in_the_stores_address_is_neither_kept_nor_shown(turns, tmp_path):
    store = "http://me:pass123@127.0.0.1:9"
    for words in (("predict", "--conversations", turns, "--out", tmp_path / "out.jsonl"), ("doctor",)):
        done = call(*words, "--store", store)
        done.fails(2, "--store holds")
        assert "pass123" not in done.out + done.err
    assert not any("pass123" in file.read_text() for file in tmp_path.iterdir() if file.is_file())


def test_named_items_are_left_out_of_rankings(predict, tmp_path):
    rows_in = [
        {"id": "a", "messages": [{"role": "user", "content": "I loved Paper Boats."}], "mentioned": ["f12"]},
        {"id": "b", "messages": [{"role": "user", "content": "Anything."}]},
    ]
    file = write_jsonl(tmp_path / "named.jsonl", rows_in)
    assert predict("--exclude-mentioned", conversations=file).code == 0
    ranked = {row["id"]: set(row["ranking"]) for row in rows(tmp_path / "out.jsonl")}
    assert ranked == {"a": IDS - {"f03", "f12"}, "b": IDS}
