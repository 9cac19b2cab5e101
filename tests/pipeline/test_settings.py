from dataclasses import asdict
from typing import get_args

import pytest
import yaml

from reges_index import QueryDecoding
from reges_index.errors import ConfigError
from reges_index.item_expert.reasoning import ReasoningDecoding
from reges_index.item_expert.rerank import RerankMode
from reges_index.pipeline import PRESETS, DecodingSettings, PipelineSettings, ReasoningSettings, get_preset


def test_the_papers_configurations():
    """Section 3.3 and table 1: three budgets and the best run, k = 50 and 4,096 tokens in all of them."""
    assert set(PRESETS) == {"embedded", "small", "middle", "large", "best-cot"}
    found = {name: (preset.settings.llm, preset.settings.encoder) for name, preset in PRESETS.items()}
    assert found["small"] == ("google/gemma-2b-it", "dpr")
    assert found["middle"] == ("meta-llama/Llama-3.1-8B-Instruct", "bge-large")
    assert found["large"] == ("google/gemma-2-27b-it", "text-embedding-3-large")
    assert found["best-cot"] == ("meta-llama/Llama-3.1-8B-Instruct", "text-embedding-3-large")
    for name, preset in PRESETS.items():
        assert preset.name == name
        assert preset.settings.similarity_top_k == 50
        if name != "embedded":
            assert preset.settings.max_input_tokens == 4096
            assert preset.settings.fusion == "none"
            assert preset.settings.mode == ("reason" if name == "best-cot" else "generate")
    assert get_preset("embedded").settings == PipelineSettings(name="embedded")


def test_the_recipes_train_for_the_presets_models_and_mine_with_their_encoders():
    from pathlib import Path

    from reges_index.catalog.encoder import identity_name

    recipes = Path(__file__).parents[2] / "finetune" / "recipes"
    for preset in PRESETS.values():
        recipe = yaml.safe_load((recipes.parents[1] / preset.recipe.split()[0]).read_text("utf-8"))
        assert recipe["base"] == preset.settings.llm
        # OpenAI's takes money and a key, so an open encoder stands in for it in training.
        encoder = preset.settings.encoder.replace("text-embedding-3-large", "bge-large")
        assert identity_name(recipe["encoder"]) == identity_name(encoder)


def test_unknown_presets_are_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="'huge'") as error:
        PipelineSettings.preset("huge")
    assert all(name in error.value.hint for name in PRESETS)


def test_every_field_can_be_overridden():
    settings = PipelineSettings.preset("small", similarity_top_k=20, decoding={"num_queries": 2}, name="mine")
    assert (settings.similarity_top_k, settings.llm, settings.name) == (20, "google/gemma-2b-it", "mine")
    assert settings.decoding == DecodingSettings(num_queries=2)
    assert settings.override() is settings
    with pytest.raises(ConfigError, match="similarity_topk") as error:
        PipelineSettings.preset("small", similarity_topk=20)
    assert "similarity_top_k" in error.value.hint
    for wrong in ({"similarity_top_k": 0}, {"mode": "guess"}, {"llm": ""}, {"decoding": {"speed": 1}}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            settings.override(**wrong)
    with pytest.raises(ValueError, match="frozen"):
        settings.similarity_top_k = 3


def test_overrides_as_texts():
    settings = PipelineSettings().override_texts(
        [
            "similarity_top_k=7",
            "decoding.max_new_tokens=9",
            "rerank_top_k=null",
            "empty_response=",
            "name=a=b",
        ]
    )
    assert settings.similarity_top_k == 7
    assert settings.decoding == DecodingSettings(max_new_tokens=9)
    assert settings.rerank_top_k is None
    assert settings.empty_response == ""
    assert settings.name == "a=b"
    kept = PipelineSettings(decoding=DecodingSettings(seed=3)).override_texts(["decoding.max_new_tokens=9"])
    assert kept.decoding == DecodingSettings(max_new_tokens=9, seed=3)
    wrong = ("similarity_top_k", "=3", "nothing=1", "nothing.at=1", "llm={", "similarity_top_k=many")
    for text in (*wrong, "llm.at=1", "similarity_top_k.at=1"):
        with pytest.raises(ConfigError):
            PipelineSettings().override_texts([text])


def test_a_secret_in_an_address_is_refused_and_not_repeated():
    for field in ("llm", "encoder", "query_llm"):
        for url in ("http://me:pass123@h/v1", "https://h/v1?key=pass123"):
            with pytest.raises(ConfigError) as error:
                PipelineSettings.parse({field: f"openai-like:http-model@{url}"})
            assert "pass123" not in str(error.value)
            assert error.value.__cause__ is None


def test_what_is_repeated_here_is_what_the_components_have():
    """Settings are read without torch, so they cannot take these from the components."""
    assert DecodingSettings().model_dump() == asdict(QueryDecoding())
    assert ReasoningSettings().model_dump() == asdict(ReasoningDecoding())
    assert get_args(PipelineSettings.model_fields["mode"].annotation) == get_args(RerankMode)
