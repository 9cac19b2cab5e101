"""The query expert in stock LlamaIndex engines."""

import pytest
from llama_index.core.chat_engine import CondensePlusContextChatEngine
from llama_index.core.query_engine import RetrieverQueryEngine

from reges_index import (
    QueryDecoding,
    ReGeSQueryTransform,
    ReGeSRerank,
    ReGeSRetriever,
    ReGeSSynthesizer,
)
from tests.builders import bundle


@pytest.fixture(scope="module")
def retriever(few_films, tiny):
    transform = ReGeSQueryTransform(tiny, decoding=QueryDecoding(max_new_tokens=8))
    return ReGeSRetriever(few_films.as_retriever(similarity_top_k=5), transform)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_retriever_query_engine(retriever, few_films, tiny, asynchronous):
    engine = RetrieverQueryEngine(
        retriever, ReGeSSynthesizer(), node_postprocessors=[ReGeSRerank(tiny, top_n=3)]
    )
    query = bundle("hello", "hi", "a space thriller")
    response = await engine.aquery(query) if asynchronous else engine.query(query)
    assert len(response.source_nodes) == 3
    assert response.metadata["item_id"] in {item.id for item in few_films.items()}
    assert str(response) == response.metadata["title"]


async def test_sync_and_async_retrieve_alike_from_the_refined_query(retriever, few_films):
    query = bundle("a space thriller")
    nodes = retriever.retrieve(query)
    assert [n.node.node_id for n in nodes] == [n.node.node_id for n in await retriever.aretrieve(query)]
    refined = retriever.query_transform.run(query)
    direct = few_films.as_retriever(similarity_top_k=5).retrieve(refined.query_str)
    assert [n.node.node_id for n in nodes] == [n.node.node_id for n in direct]
    assert list(retriever.get_prompts()) == ["query_transform:query_prompt"]


def test_condense_plus_context_chat_engine(retriever, few_films, tiny):
    llm = tiny.as_llm(max_new_tokens=8)
    engine = CondensePlusContextChatEngine.from_defaults(
        retriever, llm=llm, node_postprocessors=[ReGeSRerank(tiny, top_n=2)]
    )
    for message in ("a space thriller", "something newer"):
        reply = engine.chat(message)
        assert len(reply.source_nodes) == 2
    assert len(engine.chat_history) == 4
