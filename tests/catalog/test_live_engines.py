"""Live catalogs and filters behind the engines: query, chat, fusion, batches, and the workflow."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters

from reges_index import Item, ItemCatalog, LiveCatalog, QueryDecoding, ReGeSChatEngine, ReGeSQueryEngine
from reges_index.catalog.filters import parse_filters, passes
from reges_index.engines.workflow import ReGeSWorkflow
from reges_index.errors import EncoderMismatchError
from reges_index.fusion.model import FusionModel
from reges_index.query_expert.transform import ReGeSQueryTransform
from tests.catalog.hashing import HashingEmbedding
from tests.fusion.films import FILMS
from tests.fusion.small import small_fusion

OTHERS = [
    film.model_copy(update={"id": f"other-{film.id}", "title": f"{film.title} again"}) for film in FILMS
]
Op = FilterOperator


@pytest.fixture(scope="module")
def fusion() -> FusionModel:
    return small_fusion()


def engine_over(catalog: ItemCatalog | LiveCatalog, lm, fusion: FusionModel | None) -> ReGeSQueryEngine:
    return ReGeSQueryEngine.from_defaults(
        catalog,
        llm=lm,
        retriever=fusion or "vectors",
        query_transform=ReGeSQueryTransform(lm, decoding=QueryDecoding(max_new_tokens=4)),
        similarity_top_k=6,
    )


def sides(ids: list[str]) -> set[bool]:
    return {item_id.startswith("other-") for item_id in ids}


@pytest.mark.parametrize("fused", [False, True])
def test_engines_follow_a_swap_and_keep_to_it_for_a_turn(tiny, fusion, fused: bool):
    live = LiveCatalog.from_items(FILMS, name="films", embed_model=HashingEmbedding())
    engine = engine_over(live, tiny, fusion if fused else None)
    assert sides(engine.recommend("something scary").ranking) == {False}
    with engine.turn():
        live.swap(OTHERS)
        assert sides(engine.recommend("something scary").ranking) == {False}
        assert engine.catalog is live
    assert sides(engine.recommend("something scary").ranking) == {True}
    assert [sides(found.ranking) for found in engine.recommend_batch(["a", "b"])] == [{True}, {True}]
    live.rollback()
    assert sides(engine.recommend("something scary").ranking) == {False}
    live.prune(keep=0)
    assert sides(engine.recommend("something scary").ranking) == {False}
    if fused:
        first, second = engine.retriever, engine.with_filters(None).retriever
        assert first._prepared() is second._prepared()  # prepared once for a version


class Meanwhile(HashingEmbedding):
    """Has a live catalog swapped and pruned, once, while it embeds a query: in the middle of a retrieval."""

    live: Any = None

    def _get_query_embedding(self, query):
        if self.live is not None:
            live, self.live = self.live, None
            with ThreadPoolExecutor(1) as pool:  # somebody else, outside of the turn
                pool.submit(live.swap, OTHERS).result()
                pool.submit(live.prune, keep=0).result()
        return super()._get_query_embedding(query)


@pytest.mark.parametrize("fused", [False, True])
async def test_a_workflow_retrieves_from_one_version(tiny, fusion, fused: bool):
    encoder = Meanwhile()
    live = LiveCatalog.from_items(FILMS, name="films", embed_model=encoder)
    known_years = MetadataFilters(filters=[MetadataFilter(key="year", value=0, operator=Op.GT)])
    engine = engine_over(live, tiny, fusion if fused else None).with_filters(known_years)
    encoder.live = live
    done = await ReGeSWorkflow(engine).run(dialogue="something scary")
    assert encoder.live is None
    assert sides(done.recommendation.ranking) == {False}
    done = await ReGeSWorkflow(engine).run(dialogue="something scary")
    assert sides(done.recommendation.ranking) == {True}


@pytest.mark.parametrize("fused", [False, True])
def test_items_come_and_go_while_engines_run(tiny, fusion, fused: bool):
    catalog = ItemCatalog.from_items(FILMS, name="films", embed_model=HashingEmbedding())
    engine = engine_over(catalog, tiny, fusion if fused else None)
    if fused:  # looks at the catalog in every turn, not in every second
        engine.retriever.check_every = 0
    wish = "zyzzyva zyzzyva crawls"
    assert "new" not in engine.recommend(wish).ranking
    new = Item(id="new", title="Beetles", year=2024, abstract="A zyzzyva, a zyzzyva crawls.")
    catalog.add([new])
    assert "new" in engine.recommend(wish).ranking
    catalog.add([new.model_copy(update={"title": "Beetles again"})])
    assert any(c.item.title == "Beetles again" for c in engine.recommend(wish).candidates)
    assert catalog.remove(["new"]) == 1
    assert "new" not in engine.recommend(wish).ranking


def test_an_encoder_that_the_fusion_does_not_know(tiny, fusion):
    live = LiveCatalog.from_items(FILMS, embed_model=HashingEmbedding(model_name="another"))
    with pytest.raises(EncoderMismatchError, match="trained with encoder"):
        engine_over(live, tiny, fusion)


YEARS = sorted({film.year for film in FILMS if film.year is not None})
GENRES = sorted({genre for film in FILMS for genre in film.genres})
STOCKED = [
    film.model_copy(
        update={"metadata": {**film.metadata, "available": number % 3 != 0, "price": number * 1.5}}
    )
    for number, film in enumerate(FILMS)
]

CONDITIONS = st.lists(
    st.one_of(
        st.tuples(st.just("year"), st.sampled_from([Op.GTE, Op.LTE]), st.sampled_from(YEARS)),
        st.tuples(st.just("genres"), st.sampled_from([Op.EQ, Op.NE]), st.sampled_from(GENRES)),
        st.tuples(st.just("available"), st.just(Op.EQ), st.booleans()),
        st.tuples(st.just("price"), st.sampled_from([Op.LT, Op.GT]), st.floats(0, 20)),
    ),
    min_size=1,
    max_size=3,
)


@pytest.fixture(scope="module")
def engines(tiny, fusion) -> list[ReGeSQueryEngine]:
    live = LiveCatalog.from_items(STOCKED, name="stocked", embed_model=HashingEmbedding())
    return [engine_over(live, tiny, None), engine_over(live.current, tiny, fusion)]


@given(CONDITIONS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_filters_hold_for_every_recommendation(engines: list[ReGeSQueryEngine], conditions):
    filters = MetadataFilters(
        filters=[
            MetadataFilter.model_construct(key=key, operator=operator, value=value)
            for key, operator, value in conditions
        ]
    )
    where = parse_filters(filters)
    allowed = {
        film.id
        for film in STOCKED
        if passes(where, {**film.metadata, "year": film.year, "genres": list(film.genres)})
    }
    for engine in engines:
        filtered = engine.with_filters(filters)
        for found in (
            filtered.recommend("something scary with a robot"),
            filtered.recommend_batch(["a comedy"])[0],
        ):
            shown = {*found.ranking, *(node.node_id for node in found.rest)}
            assert shown <= allowed
            assert len(shown) == min(6, len(allowed))
        response = ReGeSChatEngine.from_defaults(query_engine=filtered).chat("a comedy")
        assert {node.node_id for node in response.source_nodes} <= allowed
