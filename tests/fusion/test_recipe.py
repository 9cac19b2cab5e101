"""Recipes and the cache of vectors."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reges_index.errors import ConfigError, InputError, StorageError, TrainingError
from reges_index.fusion.model import FusionModel
from reges_index.training.fusion import read_recipe, train_by_recipe
from reges_index.training.fusion_fitting import EXTRA, make_examples
from reges_index.training.vector_cache import VectorCache
from tests.catalog.hashing import HashingEmbedding

from .films import FILMS
from .recipes import write_recipe
from .small import SETTINGS, embed, small_train_set

ROOT = Path(__file__).parents[2]


def write(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, "utf-8")
    return path


MINIMAL = "out: made\ncache: kept\ndata:\n  - {name: a, conversations: a.jsonl, catalog: c.jsonl}\n"


def test_paths_are_relative_to_the_recipe(tmp_path):
    recipe = read_recipe(write(tmp_path, MINIMAL))
    assert recipe.out == tmp_path / "made"
    assert recipe.data[0].catalog == (tmp_path / "c.jsonl",)
    assert recipe.folds == 3
    assert recipe.encoder == "reges"
    assert read_recipe(write(tmp_path, MINIMAL + "encoder: ./mine\n")).encoder == str(tmp_path / "mine")


def test_the_shipped_recipe_is_valid():
    recipe = read_recipe(ROOT / "finetune" / "recipes" / "fusion.yaml")
    assert [its.name for its in recipe.data] == ["inspired", "redial"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MINIMAL + "wings: 2\n", "wings"),
        (MINIMAL + "folds: 1\n", "folds"),
        (MINIMAL + "training: {epoch: 3}\n", "training"),
        ("data: [", "YAML"),
        ("just text", "keys and values"),
        ("out: made\ncache: kept\n", "data: Field required"),
    ],
)
def test_wrong_recipes_say_what_is_wrong(tmp_path, text, says):
    with pytest.raises(ConfigError, match=says):
        read_recipe(write(tmp_path, text))


def test_a_recipe_is_fitted_and_judged_out_of_fold(tmp_path):
    recipe = read_recipe(write_recipe(tmp_path))
    report = train_by_recipe(recipe, embed_model=HashingEmbedding())
    films = report["cross_validation"]["all"]["films"]
    assert films["pairs"] == 24
    assert films["recall@1"] > 0.5
    assert report["cross_validation"]["new"]["films"]["recall@50"] == 1
    made = FusionModel.load(recipe.out)
    assert made.manifest["settings"]["training"]["best"] == 3
    again = train_by_recipe(recipe, out=tmp_path / "again", embed_model=HashingEmbedding())
    assert FusionModel.load(again["out"]).fingerprint == made.fingerprint


def test_a_teachers_rankings_move_the_answer(tmp_path):
    path = write_recipe(tmp_path)
    plain = train_by_recipe(read_recipe(path), embed_model=HashingEmbedding())
    turns = [json.loads(line) for line in (tmp_path / "turns.jsonl").read_text("utf-8").splitlines()]
    ranked = "".join(json.dumps({"id": turn["id"], "ranking": ["f7", "f1"]}) + "\n" for turn in turns)
    (tmp_path / "ranked.jsonl").write_text(ranked, "utf-8")
    text = path.read_text("utf-8").replace(
        "catalog: films.jsonl", "catalog: films.jsonl, teacher_rankings: ranked.jsonl"
    )
    taught = train_by_recipe(
        read_recipe(write(tmp_path, text)), out=tmp_path / "taught", embed_model=HashingEmbedding()
    )
    bound = [FusionModel.load(report["out"]).neighbours.bind(FILMS) for report in (plain, taught)]
    vector = embed(["a story of Paris"])[0]
    before, after = (its.scores(vector)[6] for its in bound)
    assert after > before


def test_turns_without_targets_teach_nothing(tmp_path):
    path = write_recipe(tmp_path)
    turns = (tmp_path / "turns.jsonl").read_text("utf-8")
    (tmp_path / "turns.jsonl").write_text(turns.replace('"targets": ["f', '"targets": ["gone'), "utf-8")
    with pytest.raises(TrainingError, match="target"):
        train_by_recipe(read_recipe(path), embed_model=HashingEmbedding())


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        read_recipe(tmp_path / "nowhere.yaml")


def test_vectors_are_made_once(tmp_path, monkeypatch):
    cache = VectorCache(tmp_path / "kept", "embedded")
    first = cache.get("query", ["a deer in the wood", "a ship", "a ship"])
    assert first.shape == (3, 384)
    assert np.allclose(np.linalg.norm(first, axis=1), 1, atol=1e-5)
    assert np.array_equal(first[1], first[2])

    def no_encoder(*_args):
        raise AssertionError("embedded again")

    monkeypatch.setattr("reges_index.training.vector_cache.resolve_encoder", no_encoder)
    again = VectorCache(tmp_path / "kept", "embedded").get("query", ["a ship", "a deer in the wood"])
    assert np.array_equal(again, first[[1, 0]])
    assert cache.get("query", []).shape == (0, 384)


def test_recipes_that_cannot_be_read_say_why(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes("# für uns\n".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        read_recipe(path)
    path.write_text("out: " + "[" * 5000)
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_recipe(path)


def vectors_of(folder):
    return VectorCache(folder, HashingEmbedding())


def test_a_kill_while_vectors_are_written_leaves_the_older_ones(tmp_path, monkeypatch):
    first = vectors_of(tmp_path).get("query", ["a ship"])

    def killed(_file, **_arrays):
        getattr(_file, "write", Path(str(_file)).write_bytes)(b"PK\x03\x04 half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("reges_index.training.vector_cache.np.savez", killed)
        with pytest.raises(KeyboardInterrupt):
            vectors_of(tmp_path).get("query", ["a deer in the wood"])
    monkeypatch.setattr(
        "reges_index.training.vector_cache.resolve_encoder", lambda _encoder: pytest.fail("again")
    )
    assert np.array_equal(vectors_of(tmp_path).get("query", ["a ship"]), first)
    assert len(list(tmp_path.iterdir())) == 1


def test_damaged_vectors_are_named(tmp_path):
    vectors_of(tmp_path).get("query", ["a ship"])
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(InputError, match="another cache") as raised:
        vectors_of(tmp_path).get("query", ["a ship"])
    assert str(file) in str(raised.value)


def test_where_vectors_cannot_be_kept_is_said(tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(StorageError, match="taken"):
        vectors_of(tmp_path / "taken").get("query", ["a ship"])


def test_spliced_dialogues_and_queries_count_what_the_settings_say_each():
    train = small_train_set()
    train.spliced, train.queries = small_train_set(), small_train_set()
    settings = replace(SETTINGS, spliced=0.2, queries=0.2)
    examples = make_examples([train], settings, folds=2)
    usual = [example for example in examples if example.group != EXTRA]
    extra = sum(example.weight for example in examples if example.group == EXTRA)
    assert extra == pytest.approx(0.4 * len(usual))
