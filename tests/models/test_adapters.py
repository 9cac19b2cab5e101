import json
import logging
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from reges_index.errors import AdapterError, StorageError
from reges_index.models.adapter_card import model_card
from reges_index.models.adapters import (
    MANIFEST_FILE,
    AdapterManifest,
    DataFile,
    check_adapter,
    load_manifest,
    save_manifest,
)
from tests.tiny import save_tiny_adapter, tiny_lm

LM = tiny_lm()


def manifest(**changes):
    fields = {
        "name": "query-expert",
        "role": "query-expert",
        "base_model": LM.name,
        "base_fingerprint": LM.fingerprint,
        "prompt_hash": "abc123",
        "prompt_template": "Write a query.\n```\n{history}\n```",
        "data": [DataFile(path="inspired/train.jsonl", sha256="0" * 64, rows=1439)],
        "training": {"lr": 1e-3, "lora": {"r": 8, "alpha": 32}, "seed": 0},
        "versions": {"peft": "0.21.2"},
        "dev_results": {"inspired": {"recall@20": 0.29912}},
        "created": "2026-11-23T12:00:00+00:00",
    }
    return AdapterManifest(**(fields | changes))


@pytest.fixture
def folder(tmp_path):
    path = save_tiny_adapter(tmp_path / "adapter")
    save_manifest(manifest(), path)
    return path


def test_saved_and_loaded(folder):
    assert load_manifest(folder) == manifest()
    assert check_adapter(folder, base=LM, role="query-expert", prompt_hash="abc123") == manifest()
    assert check_adapter(folder, base=LM.fingerprint) == manifest()


def test_loaded_with_the_model(folder):
    lm = tiny_lm()
    assert lm.load_adapter("q", folder, role="query-expert") == manifest()
    assert lm.manifest("q") == manifest()


def test_saving_leaves_no_other_file(folder):
    before = sorted(path.name for path in folder.iterdir())
    save_manifest(manifest(created="later"), folder)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert load_manifest(folder).created == "later"


def test_saving_where_nothing_can_be_written(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        save_manifest(manifest(), blocked / "adapter")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full is a Linux device")
def test_saving_on_a_full_disk_keeps_the_old_manifest(folder, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(StorageError, match="No space left"):
        save_manifest(manifest(created="later"), folder)
    assert load_manifest(folder) == manifest()
    assert len(list(folder.glob("*.json"))) == 2


@pytest.mark.parametrize(
    ("changes", "asked", "message"),
    [
        (
            {"base_fingerprint": "f" * 64},
            {},
            "not on tiny-llama-0 .fingerprint ffff",
        ),
        ({}, {"role": "item-expert"}, "trained as query-expert, not as item-expert"),
        ({}, {"prompt_hash": "other"}, "another prompt .hash abc123, here other"),
    ],
)
def test_what_does_not_belong_together(folder, changes, asked, message):
    save_manifest(manifest(**changes), folder)
    with pytest.raises(AdapterError, match=message) as caught:
        check_adapter(folder, base=LM, **asked)
    assert caught.value.hint


def test_a_base_known_by_its_path_is_taken_with_a_warning(folder, caplog):
    save_manifest(manifest(base_model="/models/smol"), folder)
    with caplog.at_level(logging.WARNING):
        assert check_adapter(folder, base=LM)
    assert "perhaps other weights" in caplog.text


def test_another_vocabulary_is_another_base():
    other = tiny_lm()
    assert other.fingerprint == LM.fingerprint
    other = tiny_lm("mistral")
    assert other.fingerprint != LM.fingerprint
    more = tiny_lm()
    more.tokenizer.add_tokens(["recommendation"])
    assert more.fingerprint != LM.fingerprint


def damage(folder, kind):
    weights, config, own = (
        folder / name for name in ("adapter_model.safetensors", "adapter_config.json", MANIFEST_FILE)
    )
    if kind == "no folder":
        shutil.rmtree(folder)
    elif kind == "no config":
        config.unlink()
    elif kind == "no weights":
        weights.unlink()
    elif kind == "pickled weights":
        weights.unlink()
        torch.save({"a": torch.zeros(1)}, folder / "adapter_model.bin")
    elif kind == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif kind == "empty weights":
        weights.write_bytes(b"")
    elif kind == "broken config":
        config.write_text(config.read_text()[:40])
    elif kind == "config is a list":
        config.write_text("[]")
    elif kind == "prefix tuning":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"peft_type": "PREFIX_TUNING"}))
    elif kind == "broken manifest":
        own.write_text(own.read_text()[:-20])
    elif kind == "manifest without role":
        own.write_text(json.dumps({k: v for k, v in json.loads(own.read_text()).items() if k != "role"}))
    elif kind == "later format":
        own.write_text(json.dumps(json.loads(own.read_text()) | {"format_version": 2, "more": 1}))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no folder", "there is no adapter folder"),
        ("no config", "no adapter_config.json"),
        ("no weights", "no adapter_model.safetensors"),
        ("pickled weights", "pickled weights are never read"),
        ("truncated weights", "damaged or half-written"),
        ("empty weights", "damaged or half-written"),
        ("broken config", "damaged or half-written"),
        ("config is a list", "holds no JSON object"),
        ("prefix tuning", "PREFIX_TUNING"),
        ("broken manifest", "damaged or half-written"),
        ("manifest without role", "not a valid manifest: role"),
        ("later format", "has format 2"),
    ],
)
def test_damaged_folders(folder, kind, message):
    damage(folder, kind)
    lm = tiny_lm()
    with pytest.raises(AdapterError, match=message):
        lm.load_adapter("q", folder)
    assert lm.adapters == ()


def test_plain_peft_adapters_are_taken_with_a_warning(tmp_path, caplog):
    path = save_tiny_adapter(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert check_adapter(path, base=LM) is None
    assert "cannot be checked" in caplog.text
    assert "it was trained on tiny-llama-0" in caplog.text


def test_model_card():
    card = model_card(manifest(negatives={"mode": "hard", "k": 9}))
    assert card.startswith("---\nbase_model: tiny-llama-0\n")
    for part in ("inspired/train.jsonl | 1439", "lora / alpha | 32", "recall@20 | 0.2991", "k | 9", "abc123"):
        assert part in card
    # The template holds a fence itself, so the card's must be longer.
    assert "````text\nWrite a query.\n```\n{history}\n```\n````" in card
    assert "Not recorded." not in model_card(manifest(inference={"temperature": 0}))
    assert "Not recorded." in model_card(manifest(dev_results={}))
    results = {
        "bare": {"value": None, "95 %": [None, None], "n": 0},
        "other": {"value": 0.5, "n": 4, "95 %": "wide"},
    }
    card = model_card(manifest(dev_results=results))
    assert "| bare | None (n = 0) |" in card
    assert "| other / 95 % | wide |" in card


def test_a_folder_below_home(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    lm = tiny_lm()
    assert lm.load_adapter("q", "~/adapter", role="query-expert") == manifest()
    assert lm.adapter_paths == {"q": folder}
    assert lm.score("A film", ["about"], adapter="q") != lm.score("A film", ["about"])


def test_of_two_threads_with_one_name_one_is_refused(folder):
    lm = tiny_lm()
    start = threading.Barrier(4)

    def load():
        start.wait()
        try:
            return lm.load_adapter("q", folder)
        except AdapterError as error:
            return str(error)

    with ThreadPoolExecutor(4) as threads:
        made = [work.result() for work in [threads.submit(load) for _ in range(4)]]
    assert made.count(manifest()) == 1
    assert sum("is loaded already" in str(other) for other in made) == 3
    assert lm.adapters == ("q",)
