from __future__ import annotations

import json
import sys

import pytest
import yaml

from reges_index import PipelineSettings
from reges_index.pipeline import read_pipeline
from reges_index.presets import PRESETS
from tests.cli.conftest import FILMS, call, run
from tests.tiny import save_tiny_adapter

pytestmark = pytest.mark.timeout(900)  # far from needed, unless the machine is busy

IDS = {film[0] for film in FILMS}
SPACE = json.dumps({"messages": [{"role": "user", "content": "Something scary in space, please."}]})


def test_the_presets_are_listed():
    command = [sys.executable, "-X", "importtime", "-m", "reges_index.cli", "presets"]
    found = run(command)
    assert found.code == 0
    for name in PRESETS:
        assert name in found.out
        assert PipelineSettings.preset(name).encoder in found.out
    loaded = {line.rsplit("|", 1)[-1].strip() for line in found.err.splitlines()}
    assert not {"torch", "transformers", "llama_index", "chromadb"} & loaded
    rows = call("presets", "--json").json
    assert [row["name"] for row in rows] == list(PRESETS)
    assert {row["similarity_top_k"] for row in rows} == {50}


@pytest.mark.parametrize("name", PRESETS)
def test_one_preset_is_shown_as_a_file_that_can_be_used(name, tmp_path):
    found = call("presets", name)
    assert found.code == 0
    (tmp_path / "p.yaml").write_text(found.out, encoding="utf-8")
    settings = PipelineSettings.preset(name)
    assert read_pipeline(tmp_path / "p.yaml").settings == settings
    assert call("presets", name, "--json").json["settings"] == settings.model_dump(mode="json")


def test_unknown_presets(store, films, tmp_path):
    call("presets", "huge").fails(2, "no preset 'huge'", "small", "best-cot")
    words = ("--store", store, "--preset", "huge")
    call("recommend", *words, "--conversation", "-", input=SPACE).fails(2, "no preset 'huge'")
    call("index", films, *words).fails(2, "no preset 'huge'")


def recommend(*words):
    return call("recommend", "--conversation", "-", "--json", *words, input=SPACE)


def test_a_preset_with_other_values(store, tiny):
    """Everything of the paper's small budget that runs here: its models are not."""
    words = ("--store", store, "--preset", "small", "--encoder", "embedded")
    recommend(*words).fails(4, "google/gemma-2b-it")
    recommend("--store", store, "--preset", "small").fails(4, "facebook/dpr")
    result = recommend(
        *words, "--model", tiny, "--similarity-top-k", 4, "--set", "decoding.max_new_tokens=5"
    ).json
    assert result["report"]["rerank"]["mode"] == "generate"
    assert len(result["candidates"]) == 4
    scored = recommend(*words, "--model", tiny, "--set", "mode=score", "--mode", "constrained").json
    assert scored["report"]["rerank"]["mode"] == "score"  # --set has the last word
    recommend(*words, "--set", "colour=3").fails(2, "colour", "options: ")
    recommend(*words, "--set", "similarity_topk=3").fails(2, "did you mean similarity_top_k?")
    recommend(*words, "--set", "rerank.mod=rank").fails(2, "did you mean mode?")
    recommend(*words, "--set", "speed").fails(2, "KEY=VALUE")


def test_a_pipeline_file(store, tiny, turns, tmp_path):
    adapter = save_tiny_adapter(tmp_path / "adapter")
    content = {
        "format": "reges-pipeline",
        "version": 1,
        "catalog": {"store": str(store), "name": "items"},
        "settings": {
            "name": "mine", "llm": str(tiny), "item_adapter": "./adapter",
            "retrieval": {"retriever": "vectors", "similarity_top_k": 5},
            "query": {"decoding": {"max_new_tokens": 5}},
        },
    }  # fmt: skip
    file = tmp_path / "p.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    result = recommend("--pipeline", file).json
    assert len(result["candidates"]) == 5
    assert result["report"]["rerank"]["adapter"] == "item-expert"
    by_flags = recommend(
        "--store", store, "--model", tiny, "--item-adapter", adapter, "--similarity-top-k", 5,
        "--retriever", "vectors", "--set", "decoding.max_new_tokens=5",
    ).json  # fmt: skip
    assert result["candidates"] == by_flags["candidates"]
    assert len(recommend("--pipeline", file, "--similarity-top-k", 3).json["candidates"]) == 3
    out = tmp_path / "out.jsonl"
    words = ("predict", "--pipeline", file, "--conversations", turns, "--out", out, "--quiet", "--json")
    assert call(*words, "--limit", 2).json["predicted"] == 2
    call(*words, "--set", "seed=4").fails(2, "other settings: seed (seed was 0, now 4)")
    chat = call("chat", "--pipeline", file, input="Something scary in space, please.\n\n")
    assert chat.code == 0
    assert "reges" in chat.out
    recommend("--pipeline", file, "--preset", "small").fails(2, "both --preset and --pipeline")
    recommend("--pipeline", tmp_path / "none.yaml").fails(2, "none.yaml", "no such file")
    recommend("--pipeline", file, "--store", tmp_path / "gone").fails(3, "gone")
    del content["catalog"]
    content["settings"]["encoder"] = "given"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    recommend("--pipeline", file).fails(2, "--store is missing")
    recommend("--pipeline", file, "--store", store).fails(2, "--encoder")


def test_indexing_for_a_pipeline(films, tmp_path):
    """The encoder and the store come from the file, so that the catalog fits it."""
    from tests.tiny_dpr import save_tiny_dpr

    save_tiny_dpr(tmp_path / "dpr")
    file = tmp_path / "p.yaml"
    settings = {"encoder": "dpr:./dpr/question,./dpr/context"}
    catalog = {"store": str(tmp_path / "store"), "name": "films"}
    text = {"format": "reges-pipeline", "version": 1, "catalog": catalog, "settings": settings}
    file.write_text(yaml.safe_dump(text), encoding="utf-8")
    report = call("index", films, "--pipeline", file, "--quiet", "--json").json
    assert (report["items"], report["name"]) == (12, "films")
    call("index", films, "--pipeline", file, "--encoder", "embedded").fails(3, "was made with")
    call("index", films, "--store", tmp_path / "other", "--preset", "small").fails(4, "facebook/dpr")
    call("index", films).fails(2, "--store is missing")
