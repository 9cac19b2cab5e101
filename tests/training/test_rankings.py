"""Rankings from a teacher that is real: LlamaIndex's client against a server."""

import json

import pytest

from reges_index.catalog import ItemCatalog
from reges_index.errors import InputError, ModelError
from reges_index.training.rankings import read_rankings, write_rankings
from reges_index.training.teacher import TeacherSettings
from tests.catalog.hashing import HashingEmbedding

from .films import items, turn, turns
from .openai_server import Reply, chat_server
from .test_pseudo_queries import FAST, client


@pytest.fixture(scope="module")
def catalog():
    return ItemCatalog.from_items(items().values(), name="rankings", embed_model=HashingEmbedding())


UNLABELLED = [t.model_copy(update={"targets": ()}) for t in turns(6)]


def test_the_teacher_ranks_what_is_found_without_knowing_the_truth(tmp_path, catalog):
    out = tmp_path / "r.jsonl"
    prices = TeacherSettings(first_wait_s=0.01, concurrency=3, price_in=2.0, price_out=10.0)
    with chat_server(lambda p, n: Reply("3, 1, 99, 3")) as server:
        report = write_rankings(
            UNLABELLED, catalog, client(server.url), out, candidates=4, count=2, settings=prices
        )
        assert (report.written, report.requests) == (6, 6)
        assert report.cost == pytest.approx((600 * 2 + 60 * 10) / 1e6)
        again = write_rankings(
            UNLABELLED, catalog, client(server.url), out, candidates=4, count=2, settings=prices
        )
        assert (again.already, again.requests) == (6, 0)
    rankings = read_rankings(out, turns=UNLABELLED, items=items())
    assert set(rankings) == {t.id for t in UNLABELLED}
    for row in map(json.loads, out.read_text().splitlines()):
        prompt = next(p for p in server.prompts if f"of kind {row['id'][1]}" in p)
        listed = [line for line in prompt.splitlines() if line[:1].isdigit() and line[1:3] == ". "]
        assert len(listed) == 4
        first, second = row["titles"]
        assert listed[2].startswith(f"3. {first}")
        assert listed[0].startswith(f"1. {second}")


def test_named_items_are_not_ranked(tmp_path, catalog):
    out = tmp_path / "r.jsonl"
    said = turn("a", 'A western like "Dust over Carmel", please.', targets=(), mentioned=("f3",))
    with chat_server(lambda p, n: Reply(", ".join(map(str, range(1, 11))))) as server:
        write_rankings([said], catalog, client(server.url), out, candidates=20, count=20, settings=FAST)
    ranked = read_rankings(out)["a"]
    assert len(ranked) == 8
    assert not {"f0", "f3"} & set(ranked)


def test_free_names_are_linked_and_what_is_not_there_stays_a_title(tmp_path, catalog):
    out = tmp_path / "r.jsonl"
    answer = "1. Up (2009)\n2. Heat (1995)\n3. **Star Harbour** (1977)\n4. The Glass Orchard (2003)\n5. Up"
    with chat_server(lambda p, n: Reply(answer)) as server:
        write_rankings(UNLABELLED[:1], catalog, client(server.url), out, source="free", settings=FAST)
    (row,) = map(json.loads, out.read_text().splitlines())
    assert row["ranking"] == ["f1", "f4"]  # two films are called The Glass Orchard, and Heat is not there
    assert row["titles"][1] == "Heat (1995)"
    assert "name the 8 movies" in server.prompts[0]


def test_nonsense_for_a_third_of_the_turns_is_left_out_and_not_paid_for_again(tmp_path, catalog):
    out = tmp_path / "r.jsonl"

    def script(prompt, number):
        return Reply("I cannot say." if "of kind 0" in prompt or "of kind 3" in prompt else "2, 1")

    with chat_server(script) as server:
        report = write_rankings(UNLABELLED, catalog, client(server.url), out, candidates=4, settings=FAST)
        assert (report.written, report.requests) == (4, 8)
        assert sorted(report.left_out["of no use twice"]) == ["t0", "t3"]
        again = write_rankings(UNLABELLED, catalog, client(server.url), out, candidates=4, settings=FAST)
        assert (again.already, again.requests) == (6, 0)


def test_nothing_but_nonsense_ends_the_run(tmp_path, catalog):
    many = [t.model_copy(update={"id": f"{t.id}-{n}"}) for n in range(10) for t in UNLABELLED]
    with chat_server(lambda p, n: Reply("Sorry.")) as server, pytest.raises(ModelError, match="of no use"):
        write_rankings(many, catalog, client(server.url), tmp_path / "r", candidates=4, settings=FAST)
    assert len(server.prompts) < 60


def test_other_settings_or_dialogues_do_not_go_into_one_file(tmp_path, catalog):
    out = tmp_path / "r.jsonl"
    with chat_server(lambda p, n: Reply("1, 2")) as server:
        llm = client(server.url)
        write_rankings(UNLABELLED, catalog, llm, out, candidates=4, settings=FAST)
        with pytest.raises(InputError, match="candidates"):
            write_rankings(UNLABELLED, catalog, llm, out, candidates=5, settings=FAST)
        changed = [turn("t0", "Something else", targets=())]
        with pytest.raises(InputError, match="other messages"):
            write_rankings(changed, catalog, llm, out, candidates=4, settings=FAST)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"id": "x", "ranking": ["f0"]}], "other conversations"),
        ([{"id": "t0", "ranking": []}], "names an item"),
        ([{"id": "t0", "ranking": ["a", "b", "f0"]}], "2 of 3 entries are not in the catalog"),
        ([{"id": "t0", "ranking": "f0"}], r"r\.jsonl:1: 't0' has no list"),
        ([{"id": "t0", "ranking": ["f0"]}] * 2, r"r\.jsonl:2: id 't0' was used on line 1"),
    ],
)
def test_files_that_cannot_be_used_are_refused(tmp_path, rows, said):
    file = tmp_path / "r.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=said):
        read_rankings(file, turns=UNLABELLED, items=items())


def test_predictions_of_another_pipeline_are_rankings(tmp_path, caplog):
    file = tmp_path / "r.jsonl"
    rows = [
        {"id": "t0", "ranking": ["Up (2009)", "f0", "Lilo & the Whale", "f0", "Heat"], "probabilities": None},
        {"id": "t1", "ranking": []},
        {"id": "elsewhere", "ranking": ["f1"]},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_rankings(file, turns=UNLABELLED, items=items())
    assert found == {"t0": ["f1", "f0", "f9"]}
    assert "1 entries not in the catalog, 1 empty rankings and 1 of other turns" in caplog.text
