import json
import logging
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from reges_index.errors import AdapterError, StorageError
from reges_index.models.adapters import (
    MANIFEST_FILE,
    AdapterManifest,
    DataFile,
    check_adapter,
    load_manifest,
    model_card,
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


def test_loaded_with_the_model(folder):
    lm = tiny_lm()
    assert lm.load_adapter("q", folder, role="query-expert") == manifest()
    assert lm.manifest("q") == manifest()


def test_saving_where_nothing_can_be_written(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        save_manifest(manifest(), blocked / "adapter")


@pytest.mark.parametrize(
    ("changes", "asked", "message"),
    [
        ({"base_fingerprint": "f" * 64}, {}, "not on tiny-llama-0 .fingerprint ffff"),
        ({}, {"role": "item-expert"}, "trained as query-expert, not as item-expert"),
        ({}, {"prompt_hash": "other"}, "trained with prompt abc123, this one is other"),
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


WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def changed(file, **fields):
    values = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def cut(file, size):
    file.write_bytes(file.read_bytes()[:size])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "there is no adapter folder"),
        (lambda folder: (folder / CONFIG).unlink(), "no adapter_config.json"),
        (lambda folder: (folder / WEIGHTS).unlink(), "no adapter_model.safetensors"),
        (lambda folder: (folder / WEIGHTS).rename(folder / "adapter_model.bin"), "pickled weights are never"),
        (lambda folder: cut(folder / WEIGHTS, -100), "damaged or half-written"),
        (lambda folder: cut(folder / WEIGHTS, 0), "damaged or half-written"),
        (lambda folder: cut(folder / CONFIG, 40), "damaged or half-written"),
        (lambda folder: (folder / CONFIG).write_text("[]"), "expected a JSON object"),
        (lambda folder: changed(folder / CONFIG, peft_type="PREFIX_TUNING"), "PREFIX_TUNING"),
        (lambda folder: cut(folder / MANIFEST_FILE, -20), "damaged or half-written"),
        (lambda folder: changed(folder / MANIFEST_FILE, role=None), "not a valid manifest: role"),
        (lambda folder: changed(folder / MANIFEST_FILE, format_version=2, more=1), "has format 2"),
    ],
)
def test_damaged_folders(folder, damage, message):
    damage(folder)
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
    for part in ("path: inspired/train.jsonl", "alpha: 32", "recall@20: 0.2991", "k: 9", "abc123"):
        assert part in card
    # The template holds a fence itself, so the card's must be longer.
    assert "````text\nWrite a query.\n```\n{history}\n```\n````" in card
    assert "## Results" not in model_card(manifest(dev_results={}))
    results = {"hits": {"value": 0.123456, "95 %": [0.1, 0.2], "n": 8}}
    assert "hits: 'value: 0.1235, 95 %: [0.1, 0.2], n: 8'" in model_card(manifest(dev_results=results))


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
