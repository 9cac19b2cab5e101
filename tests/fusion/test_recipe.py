"""Recipes and the cache of vectors."""

from pathlib import Path

import numpy as np
import pytest

from reges_index.errors import ConfigError, InputError
from reges_index.fusion.recipe import VectorCache, read_recipe

ROOT = Path(__file__).parents[2]


def write(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, "utf-8")
    return path


MINIMAL = "out: made\ncache: kept\ndata:\n  - {name: a, conversations: a.jsonl, catalog: c.jsonl}\n"


def test_paths_are_relative_to_the_recipe(tmp_path):
    recipe = read_recipe(write(tmp_path, MINIMAL))
    assert recipe.out == tmp_path / "made"
    assert recipe.data[0].catalog == tmp_path / "c.jsonl"
    assert recipe.settings.folds == 3
    assert recipe.encoder == "embedded"
    assert read_recipe(write(tmp_path, MINIMAL + "encoder: ./mine\n")).encoder == str(tmp_path / "mine")


def test_the_shipped_recipe_is_valid():
    recipe = read_recipe(ROOT / "finetune" / "recipes" / "fusion.yaml")
    assert [its.name for its in recipe.data] == ["inspired", "redial"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MINIMAL + "wings: 2\n", "wings"),
        (MINIMAL + "folds: 1\n", "folds"),
        (MINIMAL + "adapter: {epoch: 3}\n", "adapter"),
        ("data: [", "no valid YAML"),
        ("just text", "valid dictionary"),
    ],
)
def test_wrong_recipes_say_what_is_wrong(tmp_path, text, says):
    with pytest.raises(ConfigError, match=says):
        read_recipe(write(tmp_path, text))


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        read_recipe(tmp_path / "nowhere.yaml")


def test_vectors_are_made_once(tmp_path, monkeypatch):
    cache = VectorCache(tmp_path / "kept", "embedded")
    first = cache.queries(["a deer in the wood", "a ship", "a ship"])
    assert first.shape == (3, 384)
    assert np.allclose(np.linalg.norm(first, axis=1), 1, atol=1e-5)
    assert np.array_equal(first[1], first[2])

    def no_encoder(*_args):
        raise AssertionError("embedded again")

    monkeypatch.setattr("reges_index.fusion.recipe.resolve_encoder", no_encoder)
    again = VectorCache(tmp_path / "kept", "embedded").queries(["a ship", "a deer in the wood"])
    assert np.array_equal(again, first[[1, 0]])
    assert cache.queries([]).shape == (0, 384)
