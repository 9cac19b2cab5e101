"""Hard negatives from a real catalog, with queries from a file and from a model."""

import json

import pytest

from reges_index import QueryDecoding, ReGeSQueryTransform
from reges_index.catalog import ItemCatalog
from reges_index.dialogue import DialogueQueryBundle
from reges_index.errors import ConfigError, InputError
from reges_index.training.negatives import mine_negatives
from reges_index.training.rankings import read_rankings
from tests.catalog.hashing import HashingEmbedding
from tests.tiny import tiny_lm

from .films import items, turn, turns


@pytest.fixture(scope="module")
def catalog():
    return ItemCatalog.from_items(items().values(), embed_model=HashingEmbedding(), name="negatives")


def rows(path):
    return {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}


def ranking(path, key):
    return rows(path)[key]["ranking"]


def test_the_nearest_items_in_the_retrievers_order_with_as_many_wrong_ones_as_asked_for(tmp_path, catalog):
    given = [turn("a", "hello", targets=("f3",)), turn("b", "hello", targets=("f0", "f8"))]
    queries = {"a": "Star Harbour, science fiction with stars", "b": "a hotel with a heat wave"}
    report = mine_negatives(given, queries, catalog, tmp_path / "n.jsonl", top_k=4)
    assert report.written == 2
    for one in given:
        row = rows(tmp_path / "n.jsonl")[one.id]
        hits = catalog.as_retriever(similarity_top_k=10).retrieve(queries[one.id])
        assert row["ranking"] == [hit.node.node_id for hit in hits][: len(row["ranking"])]
        assert len(set(row["ranking"]) - set(one.targets)) >= 4
        assert row["query"] == queries[one.id]
    # f3 is the second hit of "a" (its namesake is first); f8 the first of "b", f0 not among the first four.
    assert report.turns_with_target_found == 2
    assert "f3" in ranking(tmp_path / "n.jsonl", "a")
    assert read_rankings(tmp_path / "n.jsonl", turns=given, items=items()).keys() == {"a", "b"}


def test_k_larger_than_the_catalog_gives_all_items(tmp_path, catalog):
    mine_negatives([turn("a", "hello")], {"a": "a film"}, catalog, tmp_path / "n", top_k=50)
    assert sorted(ranking(tmp_path / "n", "a")) == sorted(items())


def test_turns_that_cannot_be_mined_are_listed(tmp_path, catalog):
    given = [
        turn("good", "hello"),
        turn("targetless", "hello", targets=()),
        turn("unknown", "hello", targets=("nowhere",)),
        turn("queryless", "hello"),
    ]
    report = mine_negatives(given, {"good": "western"}, catalog, tmp_path / "n", top_k=3)
    assert report.left_out == {
        "without target": ["targetless"], "no target in the catalog": ["unknown"],
        "without query": ["queryless"],
    }  # fmt: skip
    assert list(rows(tmp_path / "n")) == ["good"]
    with pytest.raises(InputError, match="none of 3 turns can be mined: 1 without target"):
        mine_negatives(given[1:], {"good": "western"}, catalog, tmp_path / "m", top_k=3)
    with pytest.raises(ConfigError):
        mine_negatives(given, {"good": "western"}, catalog, tmp_path / "m", top_k=0)


def test_the_query_expert_writes_the_queries_and_a_begun_file_goes_on(tmp_path, catalog):
    expert = ReGeSQueryTransform(tiny_lm(), decoding=QueryDecoding(max_new_tokens=6))
    whole, begun = tmp_path / "whole.jsonl", tmp_path / "begun.jsonl"
    report = mine_negatives(turns(5), expert, catalog, whole, top_k=3, batch_size=2)
    assert (report.written, report.already) == (5, 0)
    bundle = expert.run(DialogueQueryBundle.from_dialogue(turns(5)[0]))
    row = rows(whole)["t0"]
    assert row["query"] == bundle.query_str
    nearest = [hit.node.node_id for hit in catalog.as_retriever(10).retrieve(bundle)]
    assert row["ranking"] == nearest[:5]

    mine_negatives(turns(2), expert, catalog, begun, top_k=3)
    with begun.open("ab") as file:
        file.write(b'{"id": "t2", "negat')
    report = mine_negatives(turns(5), expert, catalog, begun, top_k=3)
    assert (report.written, report.already, report.repaired_bytes) == (3, 2, 19)
    assert rows(begun).keys() == rows(whole).keys()
    with pytest.raises(InputError, match="top_k was 3, now 4"):
        mine_negatives(turns(5), expert, catalog, begun, top_k=4)
    with pytest.raises(InputError, match="adapter was None, now 'new'"):
        mine_negatives(turns(5), expert, catalog, begun, top_k=3, made_by={"adapter": "new"})


def test_queries_from_a_file_are_searched_with_the_newest_messages_as_an_expert_would(tmp_path, catalog):
    expert = ReGeSQueryTransform(tiny_lm(), decoding=QueryDecoding(max_new_tokens=6, context_messages=2))
    mine_negatives(turns(2), expert, catalog, tmp_path / "expert", top_k=9)
    queries = {key: row["query"] for key, row in rows(tmp_path / "expert").items()}
    mine_negatives(turns(2), queries, catalog, tmp_path / "file", top_k=9, context_messages=2)
    assert rows(tmp_path / "file") == rows(tmp_path / "expert")
    mine_negatives(turns(2), queries, catalog, tmp_path / "alone", top_k=9)
    assert rows(tmp_path / "alone") != rows(tmp_path / "file")
    with pytest.raises(InputError, match="context_messages was 2, now 0"):
        mine_negatives(turns(2), queries, catalog, tmp_path / "file", top_k=9)
    for source, wrong in ((expert, 2), (queries, -1)):
        with pytest.raises(ConfigError, match="context_messages"):
            mine_negatives(turns(2), source, catalog, tmp_path / "x", top_k=9, context_messages=wrong)


def test_a_file_is_not_continued_with_another_catalog_or_model(tmp_path, catalog):
    expert, other = (
        ReGeSQueryTransform(tiny_lm(seed=seed), decoding=QueryDecoding(max_new_tokens=6)) for seed in (0, 1)
    )
    mine_negatives(turns(2), expert, catalog, tmp_path / "n", top_k=3)
    changed = items() | {"f5": items()["f5"].model_copy(update={"abstract": "A pass without Spartans."})}
    elsewhere = ItemCatalog.from_items(changed.values(), embed_model=HashingEmbedding(), name="changed")
    with pytest.raises(InputError, match="catalog was"):
        mine_negatives(turns(3), expert, elsewhere, tmp_path / "n", top_k=3)
    with pytest.raises(InputError, match="model was 'tiny-llama-0', now 'tiny-llama-1'"):
        mine_negatives(turns(3), other, catalog, tmp_path / "n", top_k=3)


def test_new_turns_go_on_and_changed_ones_are_named(tmp_path, catalog):
    queries = {own.id: "a film" for own in turns(4)}
    mine_negatives(turns(2), queries, catalog, tmp_path / "n", top_k=3)
    assert mine_negatives(turns(4), queries, catalog, tmp_path / "n", top_k=3).written == 2
    first, *rest = turns(4)
    changed = first.model_copy(update={"messages": turns(2)[1].messages})
    with pytest.raises(InputError, match="1 of its turns have other messages now: t0"):
        mine_negatives([changed, *rest], queries, catalog, tmp_path / "n", top_k=3)
