"""Which parts run, and that an engine says so."""

import pytest

from reges_index import ItemCatalog, PipelineSettings, ReGeSChatEngine, ReGeSQueryEngine, demo_catalog
from reges_index.engines.plan import what_runs
from reges_index.errors import ConfigError, EncoderMismatchError
from reges_index.fusion import FusionModel, FusionRetriever
from reges_index.query_expert.retriever import ReGeSRetriever
from reges_index.query_expert.transform import ReGeSQueryTransform


@pytest.fixture(scope="module")
def catalog():
    return ItemCatalog.from_items(demo_catalog("films")[:12], name="plan")


def who(engine):
    plan = engine.plan
    return [part.who for part in (plan.query, plan.retriever, plan.rerank, plan.answer)]


def test_without_an_llm_the_fusion_is_all_that_runs(catalog):
    engine = ReGeSQueryEngine.from_defaults(catalog, similarity_top_k=5, top_n=2)
    assert who(engine) == [None, "fusion", None, "the catalog"]
    assert engine.query_transform is engine.rerank is None
    response = engine.query("Something tense, in space?")
    assert response.metadata["query"] is None
    assert "query" not in response.metadata["report"]
    assert len(response.source_nodes) == 2
    found = engine.recommend("Something tense, in space?")
    assert found.query is None
    assert found.to_dict()["query"] is None
    chances = [c.probability for c in found.candidates]
    assert chances == sorted(chances, reverse=True)
    assert 0 < sum(chances) <= 1 + 1e-6
    retriever = FusionRetriever(catalog, similarity_top_k=5)
    assert found.ranking == [n.node.node_id for n in retriever.retrieve(found.bundle)]


def test_an_llm_that_is_given_always_ranks(catalog, tiny):
    engine = ReGeSQueryEngine.from_defaults(catalog, llm=tiny, similarity_top_k=5)
    assert who(engine) == [None, "fusion", "given, mode auto", "the catalog"] or engine.settings.llm
    assert engine.recommend("in space").report["rerank"]["outcome"] == "scored"
    assert engine.rerank.backend.lm is tiny


def test_a_query_is_written_where_it_is_read_or_asked_for(catalog, few_films, tiny):
    for options, written in (
        ({}, False),
        ({"retriever": "vectors"}, True),
        ({"write_query": "always"}, True),
        ({"retriever": "vectors", "write_query": "never"}, False),
        ({"query_llm": tiny}, True),
        ({"retriever": FusionModel.default()}, False),
        ({"retriever": FusionRetriever(catalog, similarity_top_k=3)}, False),
        ({"retriever": catalog.as_retriever(similarity_top_k=3)}, True),
        ({"retriever": catalog.as_index().as_retriever(similarity_top_k=3)}, True),
    ):
        engine = ReGeSQueryEngine.from_defaults(catalog, llm=tiny, **options, decoding=None)
        assert (engine.query_transform is not None) == written, options
        assert (engine.plan.query.who is not None) == written, options
    assert ReGeSQueryEngine.from_defaults(few_films, llm=tiny).plan.retriever.who == "vectors"
    own = ReGeSRetriever(few_films.as_retriever(), ReGeSQueryTransform(tiny))
    assert ReGeSQueryEngine.from_defaults(own, llm=tiny).query_transform is None


def test_a_fusion_that_does_not_fit_is_refused_if_asked_for(few_films):
    with pytest.raises(EncoderMismatchError):
        ReGeSQueryEngine.from_defaults(few_films, retriever="fusion")
    engine = ReGeSQueryEngine.from_defaults(few_films, write_query="never")
    assert who(engine)[:3] == [None, "vectors", None]
    found = engine.recommend("in space")
    assert found.candidates[0].probability is None
    assert found.candidates[0].retrieval_score is not None


def test_the_plan_of_settings_is_the_plan_of_their_engine(catalog):
    settings = PipelineSettings.preset("embedded", encoder="given")
    engine = ReGeSQueryEngine.from_defaults(catalog, settings=settings)
    assert str(what_runs(settings, fits=True)).split("(")[0] == str(engine.plan).split("(")[0]
    assert "retrieves: fusion" in str(engine.plan)
    again = ReGeSQueryEngine.from_defaults(catalog, settings=engine.settings)
    assert again.settings == engine.settings


def test_unknown_options_and_names(catalog):
    for options in ({"fusion": None}, {"hide_ruled_out": True}, {"retriever": "bm25"}, {"llm": ""}):
        with pytest.raises(ConfigError) as caught:
            ReGeSQueryEngine.from_defaults(catalog, **options)
        assert next(iter(options)) in str(caught.value)
        assert caught.value.hint or "llm" in options


def test_a_chat_over_an_engine_of_ones_own_answers_small_talk(catalog):
    engine = ReGeSQueryEngine.from_defaults(catalog)
    chat = ReGeSChatEngine.from_defaults(query_engine=engine)
    assert chat.chat("Hello there!").metadata["small_talk"] is True
    assert chat.chat("a film in space please").metadata["small_talk"] is False
    off = ReGeSChatEngine.from_defaults(query_engine=engine, small_talk=False)
    assert off.chat("Hello there!").metadata["small_talk"] is False
