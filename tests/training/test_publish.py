"""Adapters made ready to ship."""

import json

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from reges_index.cli.app import app
from reges_index.errors import AdapterError, InputError
from reges_index.models.adapters import load_manifest
from reges_index.training.config import ExpertTraining
from reges_index.training.data import TrainingData
from reges_index.training.experts import train_item_expert
from reges_index.training.publish import experiment_results, publish_adapter
from reges_index.training.steps import content_hash
from tests.tiny import tiny_lm

from .films import items, turns

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("publish") / "item-expert"
    settings = ExpertTraining(negatives="random", num_candidates=3, max_steps=2)
    train_item_expert([TrainingData(turns(4), items())], tiny_lm(), settings, folder)
    return folder


def experiment(folder, **about):
    row = {
        "system": "ReGeS", "setting": "10 candidates", "protocol": "all", "metric": "Rec Success Rate",
        "value": 0.25, "low": 0.125, "high": 0.5, "n": 8,
    }  # fmt: skip
    made = {
        "experiment": "table4",
        "rows": [row],
        "about": {
            "adapter_files": {}, "settings": {"level": 0.95}, "provenance": {"command": "reges evaluate x"},
            "data": {"files": {"conversations": {"path": "../shared/data/inspired/dev.jsonl"}}}, **about,
        },
    }  # fmt: skip
    file = folder / "table4.json"
    file.write_text(json.dumps(made))
    return file


def test_half_the_size_and_the_same_weights_to_bf16(adapter, tmp_path):
    publish_adapter(adapter, tmp_path / "out")
    before, after = load_file(adapter / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor.to(torch.bfloat16), after[name])
    tiny_lm().load_adapter("item-expert", tmp_path / "out", role="item-expert")
    manifest = load_manifest(tmp_path / "out")
    assert manifest.training["weights"] == "trained in fp32, stored in bfloat16"
    assert manifest.model_copy(update={"training": {}}) == load_manifest(adapter).model_copy(
        update={"training": {}}
    )
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "out").iterdir()} == {0o644}
    publish_adapter(adapter, tmp_path / "whole", dtype="float32")
    assert (tmp_path / "whole" / WEIGHTS).stat().st_size > (tmp_path / "out" / WEIGHTS).stat().st_size


def test_results_of_this_adapter_go_into_manifest_and_card_in_place(adapter, tmp_path):
    target = tmp_path / "out"
    publish_adapter(adapter, target)
    mine = {"item-expert": content_hash(target / WEIGHTS)}
    file = experiment(tmp_path, adapter_files=mine)
    done = CliRunner().invoke(
        app, ["finetune", "publish", str(target), "--out", str(target), "--results", str(file)]
    )
    assert done.exit_code == 0, done.output
    manifest = load_manifest(target)
    assert manifest.dev_results == {
        "table4, inspired/dev.jsonl": {
            "command": "reges evaluate x",
            "10 candidates / ReGeS / all / Rec Success Rate": {
                "value": 0.25, "95 %": [0.125, 0.5], "n": 8,
            },
        }
    }  # fmt: skip
    assert content_hash(target / WEIGHTS) == mine["item-expert"]
    card = (target / "README.md").read_text()
    assert "Rec Success Rate: 'value: 0.25, 95 %: [0.125, 0.5], n: 8'" in card


def test_results_of_another_adapter_are_refused_and_nothing_is_written(adapter, tmp_path):
    file = experiment(tmp_path, adapter_files={"item-expert": "0" * 64})
    with pytest.raises(InputError, match=r"made with other adapters \(item-expert 000000000000\)"):
        publish_adapter(adapter, tmp_path / "out", results=[file])
    assert not (tmp_path / "out").exists()
    file.write_text('{"rows": []}')
    with pytest.raises(InputError, match="holds no results"):
        experiment_results(file, adapter=adapter)
    with pytest.raises(InputError, match="no such file"):
        experiment_results(tmp_path / "gone.json", adapter=adapter)


def test_an_adapter_without_manifest_is_refused(adapter, tmp_path):
    (tmp_path / "plain").mkdir()
    for name in ("adapter_config.json", WEIGHTS):
        (tmp_path / "plain" / name).write_bytes((adapter / name).read_bytes())
    with pytest.raises(AdapterError, match=r"holds no reges_adapter\.json"):
        publish_adapter(tmp_path / "plain", tmp_path / "out")
