"""What the user turned down, and genres ruled out, leave the ranking of any engine that is asked to do so."""

import pytest
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters

from reges_index import LiveCatalog, QueryDecoding, ReGeSChatEngine, ReGeSQueryEngine, ReGeSQueryTransform
from reges_index.catalog import ItemCatalog
from reges_index.engines import ReGeSWorkflow
from reges_index.errors import ConfigError
from reges_index.fusion import FusionRetriever
from tests.builders import chat
from tests.catalog.hashing import HashingEmbedding
from tests.fusion.films import FILMS
from tests.fusion.small import small_fusion

SAID = list(chat("Something for tonight, but no horror please.", "Laugh Factory?", "I hated Laugh Factory."))
EVERYTHING = {film.id for film in FILMS}
LEFT = EVERYTHING - {"f4", "f5", "f6"}  # two horror films, and the one that was turned down


@pytest.fixture(scope="module")
def fusion():
    return small_fusion()


@pytest.fixture(scope="module")
def catalog():
    return ItemCatalog.from_items(FILMS, embed_model=HashingEmbedding(), name="ruled-out")


@pytest.fixture(scope="module")
def options(tiny, fusion):
    """What makes an engine of a catalog that ranks by the fusion, with a query of six tokens."""
    transform = ReGeSQueryTransform(tiny, decoding=QueryDecoding(max_new_tokens=6))
    return {"llm": tiny, "query_transform": transform, "fusion": fusion}


def test_off_it_ranks_everything_and_on_it_hides(catalog, options):
    assert set(ReGeSQueryEngine.from_defaults(catalog, **options).recommend(SAID).ranking) == EVERYTHING
    engine = ReGeSQueryEngine.from_defaults(catalog, **options, hide_ruled_out=True)
    assert set(engine.recommend(SAID).ranking) == LEFT
    # A dialogue that rules nothing out loses nothing.
    assert set(engine.recommend("A film for tonight.").ranking) == EVERYTHING


def test_a_batch_and_other_filters_keep_it(catalog, options):
    engine = ReGeSQueryEngine.from_defaults(catalog, **options, hide_ruled_out=True)
    plain, ruled = engine.recommend_batch(["A film for tonight.", SAID])
    assert (set(plain.ranking), set(ruled.ranking)) == (EVERYTHING, LEFT)
    recent = MetadataFilters(filters=[MetadataFilter(key="year", value=1995, operator=FilterOperator.GTE)])
    filtered = engine.with_filters(recent)
    assert set(filtered.recommend(SAID).ranking) == {"f2", "f3", "f7", "f8"}
    assert set(engine.with_filters(recent).with_filters(None).recommend(SAID).ranking) == LEFT


async def test_the_workflow_keeps_it(catalog, options):
    engine = ReGeSQueryEngine.from_defaults(catalog, **options, hide_ruled_out=True)
    ended = await ReGeSWorkflow(engine).run(dialogue=SAID)
    assert set(ended.recommendation.ranking) == LEFT


def test_every_version_of_a_live_catalog_keeps_it(options, tmp_path):
    first = [film for film in FILMS if film.id != "f4"]
    live = LiveCatalog.from_items(first, persist_dir=tmp_path, name="live", embed_model=HashingEmbedding())
    engine = ReGeSQueryEngine.from_defaults(live, **options, hide_ruled_out=True)
    assert set(engine.recommend(SAID).ranking) == LEFT
    live.swap(FILMS[3:])
    assert set(engine.recommend(SAID).ranking) == {"f7", "f8"}


def test_a_chat_passes_it_on(catalog, options):
    asked = {**options, "small_talk": False, "exclude_recommended": False, "exclude_mentioned": False}
    for hide in (False, True):
        talk = ReGeSChatEngine.from_defaults(catalog, **asked, hide_ruled_out=hide)
        found = talk.query_engine.recommend(SAID)
        assert set(found.ranking) == (LEFT if hide else EVERYTHING)
    engine = ReGeSQueryEngine.from_defaults(catalog, **options)
    with pytest.raises(ConfigError, match="hide_ruled_out cannot be set on the query engine"):
        ReGeSChatEngine.from_defaults(query_engine=engine, hide_ruled_out=True)


def test_without_a_fusion_it_is_refused(catalog, options, tiny, fusion):
    none = {**options, "fusion": None}
    # The second has none because the LLM is one of the user's own.
    for contradicting in (none, {"llm": tiny}):
        with pytest.raises(ConfigError, match="hide_ruled_out=True needs a fusion") as error:
            ReGeSQueryEngine.from_defaults(catalog, **contradicting, hide_ruled_out=True)
        assert "FusionModel" in error.value.hint
    retriever = FusionRetriever(catalog, fusion)
    with pytest.raises(ConfigError, match="hide_ruled_out go into your retriever"):
        ReGeSQueryEngine.from_defaults(retriever=retriever, **none, hide_ruled_out=True)
    # Which is where it then works.
    own = FusionRetriever(catalog, fusion, hide_ruled_out=True)
    assert set(ReGeSQueryEngine.from_defaults(retriever=own, **none).recommend(SAID).ranking) == LEFT
