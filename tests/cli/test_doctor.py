from __future__ import annotations

import json
import shutil

import pytest

from tests.cli.conftest import call, reges

pytestmark = pytest.mark.timeout(900)  # far from needed, unless the machine is busy


def findings(found):
    return {finding["subject"]: finding for finding in json.loads(found.out)["findings"]}


def test_all_is_well(store):
    found = reges("doctor", "--store", store, "--json")
    assert found.code == 0, found.out
    assert found.err == ""
    seen = findings(found)
    for subject in ("torch", "chromadb", "embedded LLM", "embedded encoder", "catalog items"):
        assert seen[subject]["status"] == "ok"
    assert "12 items" in seen["catalog items"]["detail"]
    assert seen["writes the query"]["detail"].startswith("nobody")
    assert seen["retrieves"]["detail"].startswith("fusion")
    assert seen["ranks"]["detail"].startswith("nobody")


def test_it_says_who_does_what_and_why():
    seen = findings(call("doctor", "--model", "openai:m", "--retriever", "vectors", "--json"))
    assert seen["writes the query"]["detail"].startswith("openai:m (")
    assert seen["retrieves"]["detail"].startswith("vectors (")
    assert seen["ranks"]["detail"].startswith("openai:m, mode auto (")
    assert "catalog" in seen["words the answer"]["detail"]


def test_an_empty_home_stays_empty(monkeypatch, tmp_path):
    for name in ("REGES_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    found = call("doctor")
    assert found.code == 0, found.out
    assert f"converted at first use into {tmp_path}" in found.out
    assert not list(tmp_path.iterdir())  # it looks, and makes nothing


def test_what_is_wrong_is_said_and_ends_with_one(monkeypatch, tmp_path):
    monkeypatch.setattr("reges_index.models.embedded.find_embedded_gguf", lambda: None)
    monkeypatch.setattr("reges_index.catalog.encoder_names.find_default_encoder", lambda: None)
    monkeypatch.setattr("reges_index.cli.doctor.requires", lambda _: ["torch>=2", "no-such-package"])
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    found = call("doctor", "--store", tmp_path / "none", "--json")
    assert found.code == 1
    seen = findings(found)
    assert seen["torch"]["status"] == "ok"
    assert seen["no-such-package"]["status"] == "problem"
    assert "pip install" in seen["embedded encoder"]["detail"]
    assert seen[f"store {tmp_path / 'none'}"]["status"] == "problem"


def test_a_damaged_adapter_is_found(monkeypatch, tmp_path):
    adapter = tmp_path / "query-expert"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "reges_adapter.json").write_text("{")
    monkeypatch.setattr("reges_index.models.local_lm.SHIPPED_ADAPTERS", tmp_path)
    found = call("doctor")
    assert found.code == 1
    assert "adapter query-expert" in found.out
    assert "damaged" in found.out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: weights.unlink(), "holds no adapter_model.safetensors"),
        (lambda weights: weights.write_bytes(weights.read_bytes()[:-100]), "damaged or half-written"),
        (lambda weights: None, ""),
    ],
)
def test_weights_that_are_missing_or_half_there_are_found(monkeypatch, tmp_path, change, said):
    from reges_index.models.local_lm import SHIPPED_ADAPTERS

    shutil.copytree(SHIPPED_ADAPTERS / "query-expert", tmp_path / "query-expert")
    change(tmp_path / "query-expert" / "adapter_model.safetensors")
    monkeypatch.setattr("reges_index.models.local_lm.SHIPPED_ADAPTERS", tmp_path)
    found = call("doctor", "--json")
    assert found.code == bool(said)
    seen = findings(found)["adapter query-expert"]
    assert seen["status"] == ("problem" if said else "ok")
    assert said in seen["detail"]
