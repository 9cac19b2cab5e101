"""Recipes and the cache of vectors."""

import logging
from pathlib import Path

import numpy as np
import pytest

from reges_index.errors import ConfigError, InputError, StorageError
from reges_index.fusion.recipe import VectorCache, read_recipe
from tests.catalog.hashing import HashingEmbedding

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


def test_recipes_that_cannot_be_read_say_why(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes("# für uns\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"recipe\.yaml: not UTF-8 \(byte 3\)"):
        read_recipe(path)
    path.write_text("out: " + "[" * 5000)
    with pytest.raises(ConfigError, match=r"recipe\.yaml: nested too deeply"):
        read_recipe(path)


def vectors_of(folder):
    return VectorCache(folder, HashingEmbedding())


def test_a_kill_while_vectors_are_written_leaves_the_older_ones(tmp_path, monkeypatch):
    first = vectors_of(tmp_path).queries(["a ship"])

    def killed(_file, **_arrays):
        getattr(_file, "write", Path(str(_file)).write_bytes)(b"PK\x03\x04 half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("reges_index.fusion.recipe.np.savez", killed)
        with pytest.raises(KeyboardInterrupt):
            vectors_of(tmp_path).queries(["a deer in the wood"])
    monkeypatch.setattr("reges_index.fusion.recipe.resolve_encoder", lambda _encoder: pytest.fail("again"))
    assert np.array_equal(vectors_of(tmp_path).queries(["a ship"]), first)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("kept", [0, 40, -30])
def test_damaged_vectors_are_made_again(tmp_path, kept, caplog):
    first = vectors_of(tmp_path).queries(["a ship", "a deer in the wood"])
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:kept])
    with caplog.at_level(logging.WARNING, "reges_index.fusion"):
        again = vectors_of(tmp_path).queries(["a ship", "a deer in the wood"])
    assert np.array_equal(again, first)
    assert f"{file} is damaged" in caplog.text
    with np.load(file) as whole:
        assert len(whole["keys"]) == 2


def test_where_vectors_cannot_be_kept_is_said(tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises((InputError, StorageError), match="taken") as raised:
        vectors_of(tmp_path / "taken").queries(["a ship"])
    assert "another cache" in str(raised.value)
