"""The query expert in stock LlamaIndex engines."""

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.chat_engine import CondensePlusContextChatEngine
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import TextNode

from reges_index import (
    Item,
    QueryDecoding,
    ReGeSLLM,
    ReGeSQueryTransform,
    ReGeSRerank,
    ReGeSRetriever,
    ReGeSSynthesizer,
)
from tests.builders import bundle
from tests.catalog.hashing import HashingEmbedding


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


async def test_nodes_of_ones_own_naming(tiny):
    texts = {"Lux 3": "A lamp for desks.", "Nox 1": "A lamp for reading at night."}
    nodes = [
        TextNode(id_=label[-1], text=text, metadata={"label": label, "author": "Bo Ek"})
        for label, text in texts.items()
    ]
    stock = VectorStoreIndex(nodes, embed_model=HashingEmbedding()).as_retriever(similarity_top_k=2)
    transform = ReGeSQueryTransform(tiny, decoding=QueryDecoding(max_new_tokens=8))
    names = {"title": "label", "designers": "author"}
    named = ReGeSRetriever(stock, transform, title_key="label", field_names={"designers": "author"})
    found = {hit.node.metadata["title"]: Item.from_node(hit.node) for hit in named.retrieve("a lamp")}
    assert found.keys() == texts.keys()
    assert found["Nox 1"].makers == {"designer": ("Bo Ek",)}
    rerank = ReGeSRerank(tiny, field_names=names)
    ranked = rerank.rank(stock.retrieve("a lamp"), bundle("a lamp"))
    assert {candidate.item.title for candidate in ranked.candidates} == texts.keys()
    assert {hit.node.metadata["title"] for hit in await named.aretrieve("a lamp")} == texts.keys()


def test_condense_plus_context_chat_engine(retriever, few_films, tiny):
    llm = ReGeSLLM(tiny, max_new_tokens=8)
    engine = CondensePlusContextChatEngine.from_defaults(
        retriever, llm=llm, node_postprocessors=[ReGeSRerank(tiny, top_n=2)]
    )
    for message in ("a space thriller", "something newer"):
        reply = engine.chat(message)
        assert len(reply.source_nodes) == 2
    assert len(engine.chat_history) == 4
