import asyncio

import pytest
from llama_index.core.workflow import Context, step

from reges_index import DialogueQueryBundle, QueryDecoding, ReGeSQueryEngine, ReGeSQueryTransform
from reges_index.engines.workflow import (
    CandidatesRanked,
    CandidatesRetrieved,
    DialogueReceived,
    QueryWritten,
    ReasoningPiece,
    Recommended,
    ReGeSWorkflow,
)
from reges_index.item_expert import ReasoningDecoding
from tests.builders import bundle, chat


def make(catalog, lm, **options):
    transform = ReGeSQueryTransform(lm, decoding=QueryDecoding(max_new_tokens=6))
    options = {"similarity_top_k": 5, "exclude_mentioned": True, **options}
    return ReGeSQueryEngine.from_defaults(catalog, llm=lm, query_transform=transform, **options)


@pytest.fixture(scope="module")
def engine(few_films, tiny):
    return make(few_films, tiny)


@pytest.mark.parametrize(
    "dialogue", ["a space film", list(chat("hello", "hi", "funny")), bundle("x", "y", "like Solaris")]
)
async def test_the_answer_is_the_engines(engine, dialogue):
    ended = await ReGeSWorkflow(engine).run(dialogue=dialogue)
    asked = (
        dialogue if isinstance(dialogue, DialogueQueryBundle) else DialogueQueryBundle.from_dialogue(dialogue)
    )
    response = await engine.aquery(asked)
    found = await engine.arecommend(dialogue)
    assert isinstance(ended, Recommended)
    assert str(ended.response) == str(response)
    same, wanted = ({**r.metadata, "timings": None} for r in (ended.response, response))
    assert same == wanted
    assert set(ended.response.metadata["timings"]) == {"query", "retrieval", "rerank"}
    assert ended.recommendation.ranking == found.ranking
    assert ended.recommendation.query == found.query
    assert ended.recommendation.report == found.report
    assert ended.recommendation.bundle.messages == asked.messages


async def test_each_stage_is_in_the_stream_with_what_it_found(engine, few_films):
    barred = (await engine.arecommend("a space film")).ranking[:2]
    handler = ReGeSWorkflow(engine).run(dialogue="a space film", exclude_ids=barred)
    events = [event async for event in handler.stream_events()]
    ended = await handler
    assert [type(e) for e in events] == [QueryWritten, CandidatesRetrieved, CandidatesRanked, Recommended]
    written, retrieved, ranked, last = events
    assert written.bundle.query_str == ended.recommendation.query
    assert retrieved.found.excluded == 2
    assert len(retrieved.found.nodes) == 5
    assert not {node.node.node_id for node in retrieved.found.nodes} & set(barred)
    assert sum(c.probability for c in ranked.ranking.candidates) == pytest.approx(1)
    assert last.response.metadata["item_id"] == ranked.ranking.candidates[0].item.id


async def test_the_reasoning_streams_before_the_ranking(few_films, tiny):
    engine = make(few_films, tiny, mode="reason", reasoning=ReasoningDecoding(max_new_tokens=10))
    handler = ReGeSWorkflow(engine).run(dialogue="a space film")
    events = [event async for event in handler.stream_events()]
    kinds = [type(event) for event in events]
    pieces = [event.delta for event in events if isinstance(event, ReasoningPiece)]
    assert len(pieces) > 1
    assert kinds[:2] == [QueryWritten, CandidatesRetrieved]
    assert kinds[2 : 2 + len(pieces)] == [ReasoningPiece] * len(pieces)
    assert " ".join("".join(pieces).split()) == (await handler).response.metadata["reasoning"]


async def test_a_stage_is_replaced_by_overriding_it(engine, few_films):
    chosen = next(iter(few_films.items()))

    class Mine(ReGeSWorkflow):
        @step
        async def write_query(self, ctx: Context, event: DialogueReceived) -> QueryWritten:
            mine = DialogueQueryBundle.from_dialogue(event.dialogue).refined([chosen.title], {})
            return QueryWritten(bundle=mine, exclude_ids=[], seconds=0.0)

    ended = await Mine(engine).run(dialogue="anything")
    assert ended.recommendation.query == chosen.title


async def test_runs_at_once_do_not_mix(engine):
    wishes = ["a space film", "a love story", "trains", "something for children"]
    workflow = ReGeSWorkflow(engine)
    ended = await asyncio.gather(*(workflow.run(dialogue=wish) for wish in wishes))
    assert [e.recommendation.bundle.messages[0].content for e in ended] == wishes
    assert [e.recommendation.ranking for e in ended] == [engine.recommend(wish).ranking for wish in wishes]
