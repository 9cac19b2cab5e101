"""Real async: a heartbeat of 10 ms goes on while models, encoders and stores work.

The model is a real, tiny one that also sleeps in each forward, in whichever thread it is: long enough to be
told from the noise of a busy machine. The encoder and the stock store sleep likewise.
"""

import asyncio
import time

import chromadb
import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.vector_stores.chroma import ChromaVectorStore

from reges_index import (
    ItemCatalog,
    QueryDecoding,
    ReGeSChatEngine,
    ReGeSQueryEngine,
    ReGeSQueryTransform,
    ReGeSRerank,
    ReGeSRetriever,
    ReGeSSynthesizer,
    demo_catalog,
)
from reges_index.engines.workflow import ReGeSWorkflow
from reges_index.item_expert import ReasoningDecoding
from tests.builders import bundle, nodes_of
from tests.catalog.hashing import HashingEmbedding
from tests.tiny import tiny_lm

BEAT = 0.01
WISH = bundle("hello", "hi, what do you like?", "a space film")


class SlowEmbedding(HashingEmbedding):
    """Takes 0.4 s for a query, on whatever thread it is asked."""

    def _get_query_embedding(self, query):
        time.sleep(0.4)
        return super()._get_query_embedding(query)

    async def _aget_query_embedding(self, query):
        return await asyncio.to_thread(self._get_query_embedding, query)


@pytest.fixture(scope="module")
def slow():
    lm = tiny_lm()
    lm.model.register_forward_pre_hook(lambda *_: time.sleep(0.04))
    return lm


@pytest.fixture(scope="module")
def items():
    return demo_catalog("films")[:12]


@pytest.fixture(scope="module")
def catalog(items):
    return ItemCatalog.from_items(items, name="slowly-searched", embed_model=SlowEmbedding())


@pytest.fixture(scope="module")
def stock(items, tmp_path_factory):
    """A stock index over Chroma, whose LlamaIndex store has no asynchronous path of its own."""
    client = chromadb.PersistentClient(str(tmp_path_factory.mktemp("stock")))
    collection = client.get_or_create_collection("event-loop")
    context = StorageContext.from_defaults(vector_store=ChromaVectorStore(chroma_collection=collection))
    nodes = [item.to_node() for item in items]
    return VectorStoreIndex(nodes, storage_context=context, embed_model=SlowEmbedding())


@pytest.fixture(scope="module")
def transform(slow):
    return ReGeSQueryTransform(slow, decoding=QueryDecoding(max_new_tokens=12, num_queries=2))


@pytest.fixture(scope="module")
def engine(catalog, slow, transform):
    return ReGeSQueryEngine.from_defaults(
        catalog,
        query_transform=transform,
        rerank=ReGeSRerank(slow, mode="reason", reasoning=ReasoningDecoding(max_new_tokens=10)),
        similarity_top_k=5,
    )


async def heartbeat_during(work):
    """Return the seconds that the work took, the longest pause between two beats, and how many there were."""
    gaps = []

    async def beat():
        before = time.perf_counter()
        while True:
            await asyncio.sleep(BEAT)
            now = time.perf_counter()
            gaps.append(now - before)
            before = now

    beating = asyncio.create_task(beat())
    await asyncio.sleep(0)
    start = time.perf_counter()
    await work()
    took = time.perf_counter() - start
    await asyncio.sleep(2 * BEAT)  # a pause that goes on until now has to be seen
    beating.cancel()
    return took, max(gaps), len(gaps)


WORK = {
    "transform": lambda p: p["transform"].arun(WISH),
    "catalog retriever": lambda p: p["catalog"].as_retriever(similarity_top_k=5).aretrieve("a space film"),
    "retriever over a stock index": lambda p: ReGeSRetriever(
        p["stock"].as_retriever(), p["transform"]
    ).aretrieve(WISH),
    "rerank": lambda p: p["engine"].rerank.apostprocess_nodes(nodes_of(p["items"]), WISH),
    "synthesizer": lambda p: ReGeSSynthesizer(p["engine"].rerank.backend.lm, style="sentence").asynthesize(
        WISH, nodes_of(p["items"])
    ),
    "aquery over a stock index": lambda p: ReGeSQueryEngine.from_defaults(
        retriever=p["stock"].as_retriever(), query_transform=p["transform"], rerank=p["engine"].rerank
    ).aquery(WISH),
    "achat": lambda p: ReGeSChatEngine(p["engine"]).achat("a space film"),
    "astream_chat": lambda p: read(ReGeSChatEngine(p["engine"])),
    "workflow": lambda p: run(p["engine"]),
}


async def read(session):
    stream = await session.astream_chat("a space film")
    assert [piece async for piece in stream.async_response_gen()]


async def run(engine):
    await ReGeSWorkflow(engine).run(dialogue=WISH)


@pytest.mark.parametrize("name", WORK)
async def test_the_heart_goes_on_beating(name, engine, catalog, stock, transform, items):
    parts = {"engine": engine, "catalog": catalog, "stock": stock, "transform": transform, "items": items}
    took, longest, beats = await heartbeat_during(lambda: WORK[name](parts))
    assert took > 0.35
    assert longest < took * 2 / 3, f"the loop stood still for {longest:.3f} of {took:.3f} s"
    assert beats > took / BEAT / 4


class SyncOnly(BaseRetriever):
    """A retriever as many users write it: without an asynchronous path."""

    def __init__(self, nodes):
        super().__init__()
        self.nodes = nodes

    def _retrieve(self, query_bundle):
        time.sleep(0.5)
        return self.nodes


async def test_a_retriever_without_an_asynchronous_path(items, transform):
    retriever = ReGeSRetriever(SyncOnly(nodes_of(items)), transform)
    took, longest, _ = await heartbeat_during(lambda: retriever.aretrieve(WISH))
    assert took > 0.5
    assert longest < took * 2 / 3


async def test_the_measure_sees_work_on_the_loop(items):
    """LlamaIndex's own default is the counter-example: without it the tests above would prove nothing."""
    took, longest, beats = await heartbeat_during(lambda: SyncOnly(nodes_of(items)).aretrieve("a space film"))
    assert longest > 0.9 * took
    assert beats < took / BEAT / 4
