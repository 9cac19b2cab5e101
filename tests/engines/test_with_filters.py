"""One engine, many users: each with filters of their own."""

import pytest
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters

from reges_index import ReGeSQueryEngine
from reges_index.errors import ConfigError
from tests.engines.test_query_engine import make


def since(year):
    return MetadataFilters(filters=[MetadataFilter(key="year", value=year, operator=FilterOperator.GTE)])


@pytest.fixture(scope="module")
def engine(few_films, tiny):
    return make(few_films, tiny, similarity_top_k=12)


def test_filters_hold_and_the_first_engine_stays_as_it_was(engine, few_films):
    years = {item.id: item.year for item in few_films.items()}
    middle = sorted(years.values())[6]
    before = engine.recommend("a space film").ranking
    found = engine.with_filters(since(middle)).recommend("a space film").ranking
    assert set(found) == {item_id for item_id, year in years.items() if year >= middle} < set(before)
    assert engine.with_filters(since(middle)).with_filters(None).recommend("a space film").ranking == before
    assert engine.recommend("a space film").ranking == before
    assert engine.with_filters(since(3000)).recommend("a space film").item is None


def test_mentioned_items_may_be_allowed_or_not(engine, few_films):
    title = next(item for item in few_films.items() if item.title != "Solaris")
    wish = f"I have seen {title.title}, what else?"
    assert not engine.exclude_mentioned
    assert title.id in engine.with_filters(None).recommend(wish).ranking
    assert title.id not in engine.with_filters(None, exclude_mentioned=True).recommend(wish).ranking


def test_experts_are_shared(engine):
    other = engine.with_filters(since(1990))
    assert other.rerank is engine.rerank
    assert other.query_transform is engine.query_transform


def test_an_engine_over_a_retriever_has_its_filters(few_films, tiny, engine):
    stock = ReGeSQueryEngine(few_films.as_index().as_retriever(), engine.query_transform, engine.rerank)
    with pytest.raises(ConfigError, match="built from a retriever"):
        stock.with_filters(since(1990))
