import pytest
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters

from reges_index import PipelineSettings, ReGeSQueryEngine, ReGeSRerank
from reges_index.catalog import ItemCatalog
from reges_index.errors import AdapterError, ConfigError, EncoderMismatchError, ModelNotFoundError
from reges_index.item_expert import COT_SELECT_TMPL
from reges_index.models.named import open_llm, spec_of

SAID = "I liked Solaris, something quiet in space?"


def build_engine(settings, catalog=None, **more):
    return ReGeSQueryEngine.from_defaults(catalog, settings=settings, **more)


def same(one, other):
    """Whether two recommendations are the same, probabilities included."""
    assert one.query == other.query
    assert one.ranking == other.ranking
    for mine, yours in zip(one.candidates, other.candidates, strict=True):
        assert mine.probability == (yours.probability and pytest.approx(yours.probability, rel=1e-5))
    return True


def test_an_engine_is_what_its_settings_say(settings, catalog, parts):
    engine = build_engine(settings, catalog)
    found = engine.recommend(SAID)
    assert len(found.ranking) == 6
    assert found.report["rerank"]["adapter"] == "item-expert"
    assert found.report["query"]["adapter"] is None
    assert engine.rerank.backend.lm.adapter_paths["item-expert"] == parts / "adapter"
    assert engine.query_transform.decoding.num_queries == 2
    assert engine.exclude_mentioned
    assert engine.catalog is catalog
    bare = build_engine(settings.override(item_adapter="none"), catalog).recommend(SAID)
    assert bare.report["rerank"]["adapter"] is None
    assert [c.probability for c in bare.candidates] != [c.probability for c in found.candidates]


def test_chain_of_thought(settings, catalog):
    thinking = settings.with_options(mode="reason", reasoning={"max_new_tokens": 5}, item_adapter="none")
    engine = build_engine(thinking, catalog)
    assert engine.rerank.get_prompts()["select_prompt"].template == COT_SELECT_TMPL.template
    assert engine.rerank.reasoning.max_new_tokens == 5
    assert engine.recommend(SAID).item is not None


def test_filters_domain_prompts_and_wording(settings, catalog):
    year = sorted(item.year for item in catalog.items())[6]
    filters = MetadataFilters(filters=[MetadataFilter(key="year", value=year, operator=">=")])
    engine = build_engine(
        settings.with_options(
            filters=filters.model_dump(mode="json"),
            domain="play",
            query_prompt="{conversation_history} Which {item_plural}?",
            style="title",
            empty_response="nothing",
            rerank_top_k=2,
        ),
        catalog,
    )
    found = engine.recommend(SAID)
    assert found.ranking
    assert {item.year >= year for item in catalog.get(found.ranking)} == {True}
    assert len(found.candidates) == 2
    assert engine.query_transform.build_prompt(found.bundle).messages[0].content.endswith("Which plays?")
    assert engine.response_synthesizer.empty_response == "nothing"
    with pytest.raises(ConfigError, match="filters"):
        build_engine(settings.with_options(filters={"filters": "year"}), catalog)


def test_models_that_are_given(settings, catalog, tiny, few_films):
    given = settings.override(llm="given", item_adapter="none")
    with pytest.raises(ConfigError, match="llm"):
        build_engine(given, catalog)
    engine = build_engine(given, catalog, llm=tiny)
    assert engine.rerank.backend.lm is tiny
    apart = build_engine(
        given.override(query_llm="given"), catalog, llm=tiny, query_llm=open_llm(settings.llm)
    )
    assert apart.query_transform.backend.lm is not tiny
    with pytest.raises(EncoderMismatchError, match="hashing-trigrams"):
        build_engine(given, few_films, llm=tiny)
    assert build_engine(given.override(encoder="given"), few_films, llm=tiny).recommend(SAID).item
    retriever = few_films.as_retriever(similarity_top_k=3)
    assert len(build_engine(given, retriever=retriever, llm=tiny).recommend(SAID).ranking) == 3
    with pytest.raises(ConfigError, match="a catalog or a retriever"):
        build_engine(given, llm=tiny)


def test_presets_whose_encoders_are_not_here(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for name, words in (("small", "facebook/dpr"), ("middle", "BAAI/bge-large-en-v1.5")):
        with pytest.raises(ModelNotFoundError, match=words):
            ItemCatalog.open(embed_model=PipelineSettings.preset(name).encoder, create=True)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        ItemCatalog.open(embed_model=PipelineSettings.preset("large").encoder, create=True)


@pytest.mark.parametrize("name", ["small", "middle", "large", "best-cot"])
def test_the_llm_of_a_preset_is_not_here(name, few_films):
    settings = PipelineSettings.preset(name)
    with pytest.raises(EncoderMismatchError, match="reges index --encoder"):
        build_engine(settings, few_films)
    with pytest.raises(ModelNotFoundError, match=settings.llm):
        build_engine(settings.override(encoder="given"), few_films)


def test_wrong_adapters_options_and_fusions(settings, catalog, tmp_path, monkeypatch):
    with pytest.raises(AdapterError, match="no adapter folder"):
        build_engine(settings.override(item_adapter=str(tmp_path / "none")), catalog)
    with pytest.raises(ConfigError, match="no option api_key"):
        build_engine(settings.override(llm_options={"api_key": "x"}), catalog)
    with pytest.raises(ModelNotFoundError, match="no such file"):
        build_engine(settings.with_options(retriever=str(tmp_path)), catalog)
    with pytest.raises(ConfigError, match="retriever"):
        build_engine(settings.with_options(retriever="given"), catalog)
    api = settings.override(llm="openai-like:m@http://127.0.0.1:9/v1")
    with pytest.raises(
        AdapterError, match="reges_adapter"
    ):  # behind an API the folder says how it was trained
        build_engine(api, catalog)
    engine = build_engine(api.override(item_adapter="none", llm_options={"temperature": 0.1}), catalog)
    assert spec_of(engine.rerank.backend)[0] == api.llm
    assert spec_of(engine.rerank.backend)[1]["temperature"] == 0.1
    # What the name and its options do not say must not be lost: it is then an object to be passed again.
    for more in (
        {"should_use_structured_outputs": True},
        {"additional_kwargs": {"top_k": 1}},
        {"strict": True},
    ):
        own = engine.rerank.backend.llm.model_copy(update=more)
        assert spec_of(ReGeSRerank(own).backend) is None
    for name in ("openai:", "openai-like:m@x", "openai-like:m"):
        with pytest.raises(ConfigError):
            open_llm(name)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        open_llm("openai:gpt-4o")
