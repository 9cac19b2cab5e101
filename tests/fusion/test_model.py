"""The trained parts as files."""

import json
from dataclasses import replace

import numpy as np
import pytest

from reges_index.catalog.encoder import encoder_identity
from reges_index.errors import ModelError, ModelNotFoundError, StorageError
from reges_index.fusion.features import FEATURES
from reges_index.fusion.model import FusionModel


def test_what_is_saved_is_loaded(fusion, tmp_path):
    fusion.save(tmp_path / "made")
    loaded = FusionModel.load(tmp_path / "made")
    assert np.array_equal(loaded.weights, fusion.weights)
    assert np.array_equal(loaded.statistics.pairs, fusion.statistics.pairs)
    assert np.array_equal(loaded.statistics.ids, fusion.statistics.ids)
    assert loaded.manifest["encoder"] == fusion.manifest["encoder"]
    assert loaded.fingerprint == fusion.fingerprint
    assert len(repr(loaded)) < 120


def test_files_are_for_others_to_read_too(fusion, tmp_path):
    fusion.save(tmp_path / "made")
    (tmp_path / "usual").write_text("")
    modes = {file.stat().st_mode for file in (tmp_path / "made").rglob("*") if file.is_file()}
    assert modes == {(tmp_path / "usual").stat().st_mode}


def test_where_it_cannot_be_saved_is_said(fusion, tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(StorageError, match="taken"):
        fusion.save(tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_files_hold_no_text_of_items(fusion, tmp_path):
    fusion.save(tmp_path)
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"Harbour" not in written
    assert b"lighthouse" not in written


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        FusionModel.load(tmp_path / "nowhere")


@pytest.mark.parametrize("change", [{"format": "reges-fusion/0"}, {"features": ["dialogue"]}])
def test_other_versions_are_refused(fusion, tmp_path, change):
    fusion.save(tmp_path)
    manifest = json.loads((tmp_path / "fusion.json").read_text("utf-8"))
    (tmp_path / "fusion.json").write_text(json.dumps(manifest | change), "utf-8")
    with pytest.raises(ModelError, match="train it again"):
        FusionModel.load(tmp_path)


@pytest.mark.parametrize("name", ["fusion.json", "fusion.safetensors"])
def test_damage_is_reported(fusion, tmp_path, name):
    fusion.save(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:20])
    with pytest.raises(ModelError, match="damaged"):
        FusionModel.load(tmp_path)


def test_two_models_of_one_fingerprint_are_the_same(fusion, tmp_path):
    fusion.save(tmp_path)
    loaded = FusionModel.load(tmp_path)
    assert FusionModel.load(tmp_path).fingerprint == loaded.fingerprint
    assert replace(loaded, weights=loaded.weights + 0.1).fingerprint != loaded.fingerprint


def test_the_shipped_model_is_small_and_loads():
    from importlib import resources

    model = FusionModel.default()
    folder = resources.files("reges_index.fusion") / "shipped"
    with resources.as_file(folder) as path:
        assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) < 4_000_000
    assert model.manifest["encoder"]["name"] == encoder_identity("reges").name
    assert len(model.manifest["data"]) >= 1
    assert len(FEATURES) <= 20
    assert model.weights.shape == (len(FEATURES),)
    assert np.isfinite(model.weights).all()


def test_tensors_of_another_save_are_refused(fusion, tmp_path):
    fusion.save(tmp_path / "old")
    replace(fusion, weights=fusion.weights + 1).save(tmp_path / "new")
    # What a kill between tensors and manifest leaves.
    tensors = (tmp_path / "new" / "fusion.safetensors").read_bytes()
    (tmp_path / "old" / "fusion.safetensors").write_bytes(tensors)
    with pytest.raises(ModelError, match=r"not the file that fusion\.json was written with"):
        FusionModel.load(tmp_path / "old")
