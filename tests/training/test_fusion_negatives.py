"""Negatives of the second round: where a fusion ranks the targets among them."""

import json

import pytest

from reges_index.errors import InputError
from reges_index.fusion.recipe import read_recipe
from reges_index.fusion.training import out_of_fold, ranked_out_of_fold
from reges_index.training.fusion_negatives import mine_fusion_negatives
from reges_index.training.negatives_file import read_retrieved
from tests.catalog.hashing import HashingEmbedding
from tests.fusion.films import FILMS, train_turns
from tests.fusion.recipes import write_recipe

IDS = {film.id for film in FILMS}


def test_targets_stand_at_their_rank_in_the_fusions_list(tmp_path):
    recipe = read_recipe(write_recipe(tmp_path))
    [films] = mine_fusion_negatives(recipe, tmp_path / "out", top_k=4, embed_model=HashingEmbedding())
    rows = [json.loads(line) for line in (tmp_path / "out" / "films.jsonl").read_text().splitlines()]
    retrieved = read_retrieved(films.out, turns=train_turns(), item_ids=IDS, needs_targets=True)
    sets = recipe.train_sets(HashingEmbedding())
    made = out_of_fold(sets, recipe.settings, recipe.bench(HashingEmbedding()))
    [lists] = ranked_out_of_fold(made, recipe.weights, 14)
    found = 0
    for row, turn, ranked in zip(rows, train_turns(), lists, strict=True):
        names = [sets[0].sources.items[n].id for n, _ in ranked]
        wrong = [name for name in names if name not in turn.targets][:4]
        assert [entry["id"] for entry in row["negatives"]] == wrong
        for entry in (*row["negatives"], *row["targets"]):
            assert names[entry["rank"] - 1] == entry["id"]
        assert retrieved[turn.id] == names[: names.index(wrong[-1]) + 1]
        found += len(row["targets"])
    assert found > 12  # 24 turns; one target in two among the first by chance


def test_targets_behind_the_last_negative_count_as_missed(tmp_path):
    recipe = read_recipe(write_recipe(tmp_path))
    mine_fusion_negatives(recipe, tmp_path / "out", top_k=1, embed_model=HashingEmbedding())
    rows = [json.loads(line) for line in (tmp_path / "out" / "films.jsonl").read_text().splitlines()]
    assert all(t["rank"] < row["negatives"][0]["rank"] for row in rows for t in row["targets"])
    assert any(row["negatives"][0]["rank"] == 2 for row in rows if row["targets"])


def test_a_file_of_a_version_without_targets_is_refused(tmp_path):
    file = tmp_path / "films.jsonl"
    file.write_text('{"id": "t0", "query": "", "negatives": [{"id": "f1", "rank": 1, "score": -1}]}\n')
    with pytest.raises(InputError, match="no row has 'targets'"):
        read_retrieved(file, turns=train_turns(), item_ids=IDS, needs_targets=True)
