"""Engines take the fusion that ships where all is embedded, and only there."""

import pytest

from reges_index import ItemCatalog, LocalLM, ReGeSChatEngine, ReGeSQueryEngine, demo_catalog
from reges_index.engines.retrieval import CatalogSource
from reges_index.fusion import FusionModel
from reges_index.item_expert import ReGeSRerank
from tests.catalog.hashing import HashingEmbedding


@pytest.fixture(scope="module")
def catalog():
    return ItemCatalog.from_items(demo_catalog("films")[:12], name="fusion-default")


def fusion_of(engine):
    assert isinstance(engine.retrieve_with, CatalogSource)
    return engine.retrieve_with.fusion


def test_all_embedded_takes_the_shipped_fusion(catalog):
    engine = ReGeSQueryEngine.from_defaults(catalog, similarity_top_k=5)
    assert fusion_of(engine).fingerprint == FusionModel.default().fingerprint
    found = engine.recommend("Something tense, in space?")
    assert found.report["rerank"]["outcome"] == "fusion"
    assert found.query  # the query expert has been asked all the same
    chat = ReGeSChatEngine.from_defaults(catalog)
    assert fusion_of(chat.query_engine) is not None


def test_how_many_nodes_are_shown_does_not_change_who_chooses(catalog):
    engine = ReGeSQueryEngine.from_defaults(catalog, similarity_top_k=5, top_n=2)
    assert fusion_of(engine) is not None
    found = engine.recommend("Something tense, in space?")
    assert (len(found.candidates), len(found.nodes)) == (5, 2)


def test_none_is_the_papers_pipeline(catalog):
    assert fusion_of(ReGeSQueryEngine.from_defaults(catalog, fusion=None)) is None


def test_what_is_ones_own_is_not_passed_over(catalog):
    lm = LocalLM.default()
    for own in ({"llm": lm}, {"query_llm": lm}, {"rerank": ReGeSRerank(lm)}, {"mode": "constrained"}):
        assert fusion_of(ReGeSQueryEngine.from_defaults(catalog, **own)) is None


def test_another_encoder_has_no_shipped_fusion():
    other = ItemCatalog.from_items(
        demo_catalog("films")[:5], embed_model=HashingEmbedding(), name="fusion-other"
    )
    assert fusion_of(ReGeSQueryEngine.from_defaults(other)) is None
