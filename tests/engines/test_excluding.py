"""What must not be recommended is not, however it is said, and as many as were asked for remain."""

import pytest

from reges_index import (
    DialogueQueryBundle,
    ItemCatalog,
    ReGeSChatEngine,
    ReGeSQueryEngine,
    ReGeSQueryTransform,
    ReGeSRetriever,
    ReGeSSynthesizer,
    ReGeSWorkflow,
    as_query_engine_tool,
    demo_catalog,
)
from reges_index.errors import InputError
from reges_index.fusion import FusionRetriever
from tests.builders import item
from tests.catalog.hashing import HashingEmbedding

WORDS = ("Aldebaran", "Bergamot", "Cumulus", "Dromedary", "Escapement", "Farthingale", "Gossamer", "Halcyon")


@pytest.fixture(scope="module")
def many():
    """A catalog of 64 items with titles of three words."""
    items = [item(f"{a}{b}", f"{one} of {two}") for a, one in enumerate(WORDS) for b, two in enumerate(WORDS)]
    return ItemCatalog.from_items(items, name="sixty-four", embed_model=HashingEmbedding())


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("source", ["catalog", "retriever", "stock"])
async def test_it_retrieves_on_until_as_many_remain(many, source, asynchronous):
    by_source = {
        "catalog": (many, {"similarity_top_k": 10}),
        "retriever": (many.as_retriever(similarity_top_k=10), {}),
        "stock": (many.as_index().as_retriever(similarity_top_k=10), {}),
    }
    given, options = by_source[source]
    engine = ReGeSQueryEngine.from_defaults(given, write_query="never", **options)
    named = [it.title for it in many.items()][:50]
    dialogue = f"I have seen {', '.join(named)}. What else?"
    found = await engine.arecommend(dialogue) if asynchronous else engine.recommend(dialogue)
    assert len(found.ranking) == 10
    assert not {c.item.title for c in found.candidates} & set(named)
    everything = [it.id for it in many.items()]
    assert len(engine.recommend("hi", exclude_ids=everything[:60]).ranking) == 4
    assert engine.recommend("hi", exclude_ids=everything).item is None


def test_named_items_are_left_out_of_the_fusion_too():
    films = ItemCatalog.from_items(demo_catalog("films")[:60], name="sixty-named")
    named = [it.title for it in films.items() if " " in it.title][:25]
    engine = ReGeSQueryEngine.from_defaults(films, similarity_top_k=30)
    found = engine.recommend(f"I know {', '.join(named)}.")
    assert len(found.ranking) == 30
    assert not {c.item.title for c in found.candidates} & set(named)
    allowing = ReGeSQueryEngine.from_defaults(films, similarity_top_k=60, exclude_mentioned=False)
    assert set(named) <= {c.item.title for c in allowing.recommend(f"I know {', '.join(named)}.").candidates}


async def test_every_way_of_asking_takes_ids(many):
    engine = ReGeSQueryEngine.from_defaults(many, similarity_top_k=5, write_query="never")
    first = engine.recommend("something").ranking[0]
    barred = [first]
    bundle = DialogueQueryBundle.from_dialogue("something", exclude_ids=barred)
    chat = ReGeSChatEngine.from_defaults(query_engine=engine, small_talk=False)
    tool = as_query_engine_tool(engine)
    ended = await ReGeSWorkflow(engine).run(dialogue="something", exclude_ids=barred)
    stream = chat.stream_chat("something", exclude_ids=barred)
    picks = [
        engine.query("something", exclude_ids=barred).metadata["item_id"],
        (await engine.aquery("something", exclude_ids=barred)).metadata["item_id"],
        engine.query(bundle).metadata["item_id"],
        engine.recommend(bundle).item.id,
        stream.metadata["item_id"],
        tool.call(input="something", exclude_ids=barred).raw_output.metadata["item_id"],
        ended.recommendation.item.id,
    ]
    assert first not in picks
    assert engine.query("something").metadata["item_id"] == first
    chat.reset()
    assert chat.chat("something").metadata["item_id"] == first


async def test_a_stock_engine_says_what_was_searched_with(many, tiny):
    from llama_index.core.query_engine import RetrieverQueryEngine

    from reges_index import ReGeSRerank

    transform = ReGeSQueryTransform(tiny, decoding={"max_new_tokens": 6})
    for inner in (many.as_retriever(similarity_top_k=4), many.as_index().as_retriever(similarity_top_k=4)):
        engine = RetrieverQueryEngine(
            ReGeSRetriever(inner, transform),
            response_synthesizer=ReGeSSynthesizer(),
            node_postprocessors=[ReGeSRerank(tiny)],
        )
        written = transform.run("something quiet").query_str
        for response in (engine.query("something quiet"), await engine.aquery("something quiet")):
            assert response.metadata["query"] == written
            assert response.metadata["report"]["query"]["fallback"] in (True, False)
            assert response.metadata["report"]["rerank"]["candidates"] == 4


def test_a_fusion_in_front_of_a_stock_engine_keeps_its_probabilities(tiny):
    films = ItemCatalog.from_items(demo_catalog("films")[:12], name="twelve-stock")
    retriever = ReGeSRetriever(FusionRetriever(films, similarity_top_k=4), ReGeSQueryTransform(tiny))
    assert retriever.scores_are_probabilities


def test_ids_are_excluded_after_the_one_rule_for_ids():
    numbered = ItemCatalog.from_items(
        [item(str(n), f"Title {n}") for n in range(5)], name="numbered", embed_model=HashingEmbedding()
    )
    engine = ReGeSQueryEngine.from_defaults(numbered, retriever="vectors", write_query="never")
    ranking = engine.recommend("something", exclude_ids=[0, " 1 ", 2.0]).ranking
    assert {candidate if isinstance(candidate, str) else candidate.item.id for candidate in ranking} == {
        "3",
        "4",
    }
    with pytest.raises(InputError, match="exclude_ids"):
        engine.query("something", exclude_ids=[1.5])
