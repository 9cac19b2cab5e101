from typing import get_args, get_type_hints

import pytest
import yaml

from reges_index import PipelineSettings, QueryDecoding
from reges_index import settings as options
from reges_index.dialogue.wording import Domain
from reges_index.errors import ConfigError
from reges_index.presets import PRESETS


def test_the_papers_configurations():
    """Section 3.3 and table 1: three budgets and the best run, k = 50 and 4,096 tokens in all of them."""
    assert set(PRESETS) == {"embedded", "small", "middle", "large", "best-cot"}
    found = {name: PipelineSettings.preset(name) for name in PRESETS}
    assert (found["small"].llm, found["small"].encoder) == ("google/gemma-2b-it", "dpr")
    assert (found["middle"].llm, found["middle"].encoder) == (
        "meta-llama/Llama-3.1-8B-Instruct", "bge-large",
    )  # fmt: skip
    assert (found["large"].llm, found["large"].encoder) == ("google/gemma-2-27b-it", "text-embedding-3-large")
    assert (found["best-cot"].llm, found["best-cot"].encoder) == (
        found["middle"].llm, found["large"].encoder,
    )  # fmt: skip
    for name, settings in found.items():
        assert settings.name == name
        assert settings.retrieval.similarity_top_k == 50
        if name != "embedded":
            assert settings.rerank.max_input_tokens == 4096
            assert settings.retrieval.retriever == "vectors"
            assert settings.rerank.mode == ("reason" if name == "best-cot" else "generate")
    assert found["embedded"].llm is None


def test_the_recipes_train_for_the_presets_models_and_mine_with_their_encoders():
    from pathlib import Path

    from reges_index.catalog.encoder import identity_name

    recipes = Path(__file__).parents[2] / "finetune" / "recipes"
    for preset in PRESETS.values():
        settings = PipelineSettings.preset(preset.name)
        recipe = yaml.safe_load((recipes.parents[1] / preset.recipe.split()[0]).read_text("utf-8"))
        assert recipe["base"] == (settings.llm or "embedded")
        # OpenAI's takes money and a key, so an open encoder stands in for it in training.
        encoder = settings.encoder.replace("text-embedding-3-large", "bge-large")
        assert identity_name(recipe["encoder"]) == identity_name(encoder)


def test_unknown_presets_are_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="'huge'") as error:
        PipelineSettings.preset("huge")
    assert all(name in error.value.hint for name in PRESETS)


def test_options_are_named_without_their_section():
    settings = PipelineSettings.preset("small", similarity_top_k=20, decoding={"num_queries": 2}, name="mine")
    assert (settings.retrieval.similarity_top_k, settings.name) == (20, "mine")
    assert settings.query.decoding == QueryDecoding(num_queries=2)
    assert settings.with_options() == settings.override() == settings
    assert settings.with_options(query={"verbose": True}).query.decoding == settings.query.decoding
    with pytest.raises(ConfigError, match="similarity_topk") as error:
        PipelineSettings.preset("small", similarity_topk=20)
    assert "similarity_top_k" in error.value.hint
    for wrong in ({"similarity_top_k": 0}, {"mode": "guess"}, {"llm": ""}, {"decoding": {"speed": 1}}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            settings.with_options(**wrong)
    with pytest.raises(ConfigError, match=r"rerank\.mode"):
        options.RerankSettings(mode="guess")
    with pytest.raises(ValueError, match="frozen"):
        settings.name = "other"


def test_one_option_goes_to_every_part():
    settings = PipelineSettings().with_options(on_error="retrieval_order", verbose=True, domain="policy")
    assert [settings.query.on_error, settings.rerank.on_error, settings.answer.on_error] == [
        "last_message", "retrieval_order", "title",
    ]  # fmt: skip
    assert settings.query.verbose
    assert settings.rerank.verbose
    assert settings.domain == Domain("policy", "policies")


def test_overrides_as_texts():
    texts = ("similarity_top_k=7", "decoding.max_new_tokens=9", "rerank.mode=rank", "empty_response=")
    settings = PipelineSettings().override_texts([*texts, "rerank_top_k=null", "name=a=b"])
    assert settings.retrieval.similarity_top_k == 7
    assert settings.query.decoding == QueryDecoding(max_new_tokens=9)
    assert settings.retrieval.rerank_top_k is None
    assert (settings.rerank.mode, settings.answer.empty_response, settings.name) == ("rank", "", "a=b")
    kept = PipelineSettings(query={"decoding": {"seed": 3}}).override_texts(["decoding.max_new_tokens=9"])
    assert kept.query.decoding == QueryDecoding(max_new_tokens=9, seed=3)
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


@pytest.mark.parametrize("kind", ["Query", "Rerank"])
def test_what_editors_complete_is_what_there_is(kind):
    section, typed = getattr(options, f"{kind}Settings"), getattr(options, f"{kind}Options")
    assert set(typed.__annotations__) == set(section.model_fields)
    for declared in section.model_fields.values():
        assert declared.description


def test_the_options_of_engines_are_the_settings():
    objects = {"name", "encoder", "llm", "query_llm", "retriever"}
    assert (
        set(get_type_hints(options.EngineOptions, localns=vars(_hints())))
        == set(PipelineSettings.options()) - objects
    )
    assert get_args(options.RerankSettings.model_fields["mode"].annotation)


def _hints():
    """What the annotations of the typed options name, which is imported for type checkers only."""
    from types import SimpleNamespace

    from llama_index.core.prompts import BasePromptTemplate
    from llama_index.core.vector_stores import MetadataFilters

    return SimpleNamespace(
        **vars(options), BasePromptTemplate=BasePromptTemplate, MetadataFilters=MetadataFilters
    )
