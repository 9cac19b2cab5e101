from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import chromadb
import numpy as np
import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer
from llama_index.core.schema import QueryBundle, TextNode
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)
from llama_index.vector_stores.chroma import ChromaVectorStore

from reges_index.catalog import Item, ItemCatalog, TextTemplate, demo_catalog
from reges_index.errors import CatalogError, EncoderMismatchError, InputError, StoreNotFoundError
from tests.catalog.hashing import HashingEmbedding

FILMS = [
    Item(id="a", title="Alien", year=1979, genres=["Horror", "Sci-Fi"], directors=["Ridley Scott"],
         abstract="A ship.", metadata={"runtime": 117, "tags": ["space", "cat"], "good": True}),
    Item(id="b", title="Bambi", year=1942, genres=["Drama", "Animated"], metadata={"runtime": 70}),
    Item(id="c", title="Casablanca", year=1942, genres=["Drama", "Romance"], abstract=""),
    Item(id="d", title="Alien", year=None, abstract="\x00\x01 \u202eשלום\u2028 👩‍🚀"),
]  # fmt: skip


@pytest.fixture
def catalog() -> ItemCatalog:
    return ItemCatalog.from_items(FILMS, embed_model=HashingEmbedding())


def cosine(query: str, text: str) -> float:
    embedding = HashingEmbedding()
    return float(np.dot(embedding.get_query_embedding(query), embedding.get_text_embedding(text)))


def test_retriever_uses_what_the_bundle_asks_to_embed(catalog: ItemCatalog):
    retriever = catalog.as_retriever(similarity_top_k=4)
    embedding = HashingEmbedding()
    mean = np.mean([embedding.get_query_embedding(text) for text in ("alien", "bambi")], axis=0).tolist()
    by_vector = retriever.retrieve(QueryBundle("casablanca", embedding=mean))
    by_texts = retriever.retrieve(QueryBundle("casablanca", custom_embedding_strs=["alien", "bambi"]))
    assert [hit.node_id for hit in by_texts] == [hit.node_id for hit in by_vector]
    assert [hit.score for hit in by_texts] == pytest.approx([hit.score for hit in by_vector], abs=1e-6)
    bundle = QueryBundle("casablanca")
    assert retriever.retrieve(bundle)[0].node_id == "c"
    assert bundle.embedding is None
    for empty in ("", "  "):
        with pytest.raises(InputError, match="query is empty"):
            retriever.retrieve(empty)
    with pytest.raises(InputError, match="3 numbers"):
        catalog.query([1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="similarity_top_k is 0"):
        catalog.as_retriever(similarity_top_k=0)


Op = FilterOperator
FILTERS = [
    ("year", Op.EQ, 1942, "bc"),
    ("year", Op.NE, 1942, "ad"),
    ("year", Op.GTE, 1979, "a"),
    ("year", Op.LT, 1979, "bc"),
    ("year", Op.IN, [1979, 2000], "a"),
    ("year", Op.NIN, [1979], "bcd"),
    ("genres", Op.EQ, "Drama", "bc"),
    ("genres", Op.CONTAINS, "Drama", "bc"),
    ("genres", Op.NE, "Drama", "ad"),
    ("genres", Op.IN, ["Romance", "Sci-Fi"], "ac"),
    ("genres", Op.ANY, ["Romance", "Sci-Fi"], "ac"),
    ("genres", Op.ALL, ["Drama", "Romance"], "c"),
    ("genres", Op.NIN, ["Drama", "Horror"], "d"),
    ("creators", Op.CONTAINS, "Ridley Scott", "a"),
    ("tags", Op.CONTAINS, "cat", "a"),
    ("runtime", Op.GT, 100, "a"),
    ("good", Op.EQ, True, "a"),
]


def test_nested_filters(catalog: ItemCatalog):
    drama = MetadataFilter(key="genres", value="Drama")
    romance = MetadataFilter(key="genres", value="Romance")
    old = MetadataFilter(key="year", value=1979)
    either = MetadataFilters(filters=[romance, old], condition=FilterCondition.OR)
    filters = MetadataFilters(filters=[drama, either])
    assert [hit.node_id for hit in catalog.query("x", filters=filters)] == ["c"]
    assert len(catalog.query("x", filters=MetadataFilters(filters=[]))) == 4
    with pytest.raises(InputError, match="'text_match' on 'title' is not supported"):
        catalog.query("x", filters=MetadataFilters(filters=[
            MetadataFilter(key="title", value="A", operator=Op.TEXT_MATCH)]))  # fmt: skip
    with pytest.raises(InputError, match="condition 'not'"):
        catalog.query("x", filters=MetadataFilters(filters=[drama], condition=FilterCondition.NOT))


async def test_async_leaves_the_loop_free():
    """Searches wait here for something that only a running loop does: on the loop they would wait in vain."""
    loop_ran = threading.Event()

    class Waiting(HashingEmbedding):
        def _get_query_embedding(self, query: str) -> list[float]:
            assert loop_ran.wait(30), "the loop stood still during the search"
            return super()._get_query_embedding(query)

    retriever = ItemCatalog.from_items(FILMS, embed_model=Waiting()).as_retriever(similarity_top_k=4)
    searches = [asyncio.create_task(retriever.aretrieve("alien")) for _ in range(20)]
    await asyncio.sleep(0.05)
    assert not any(search.done() for search in searches)
    loop_ran.set()
    expected = [hit.node_id for hit in retriever.retrieve("alien")]
    assert all([hit.node_id for hit in answer] == expected for answer in await asyncio.gather(*searches))


def test_threads(catalog: ItemCatalog):
    retriever = catalog.as_retriever(similarity_top_k=4)
    queries = ["alien", "bambi", "casablanca", "drama"] * 10
    expected = [retriever.retrieve(query)[0].node_id for query in queries]
    with ThreadPoolExecutor(8) as pool:
        assert [hits[0].node_id for hits in pool.map(retriever.retrieve, queries)] == expected


def test_in_stock_query_engine(catalog: ItemCatalog):
    synthesizer = get_response_synthesizer(llm=MockLLM(), response_mode=ResponseMode.COMPACT)
    response = RetrieverQueryEngine(catalog.as_retriever(2), synthesizer).query("casablanca")
    assert response.source_nodes[0].node_id == "c"


def test_another_encoder_is_refused(tmp_path):
    ItemCatalog.from_items(FILMS, persist_dir=tmp_path, embed_model=HashingEmbedding())
    wide = HashingEmbedding(dimension=32)
    for other, message in [
        ({"embed_model": wide}, "dimension 64, not 32"),
        ({"embed_model": HashingEmbedding(model_name="other")}, "name 'test/hashing-trigrams', not 'other'"),
        ({}, "not 'reges:"),
        ({"embed_model": "minilm"}, "not 'sentence-transformers/all-MiniLM-L6-v2'"),
        (
            {"embed_model": HashingEmbedding(), "template": TextTemplate("t/2", str)},
            "'reges-item/1', not 't/2'",
        ),
    ]:
        for create in (False, True):
            with pytest.raises(EncoderMismatchError, match=message):
                ItemCatalog.open(tmp_path, create=create, **other)
    assert list(ItemCatalog.open(tmp_path, embed_model=HashingEmbedding()).items()) == FILMS


def test_names_and_missing(tmp_path):
    with pytest.raises(StoreNotFoundError, match="there is no store"):
        ItemCatalog.open(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    ItemCatalog.from_items(FILMS, persist_dir=tmp_path, name="films", embed_model=HashingEmbedding())
    with pytest.raises(StoreNotFoundError, match="no catalog 'books'") as caught:
        ItemCatalog.open(tmp_path, name="books")
    assert "films" in caught.value.hint
    assert ItemCatalog.names(tmp_path) == ["films"]
    with pytest.raises(InputError, match="catalog name 'x y'"):
        ItemCatalog.open(tmp_path, name="x y")
    with pytest.raises(InputError, match="no store is named"):
        ItemCatalog.open()
    with pytest.raises(InputError, match="both persist_dir and url"):
        ItemCatalog.open(tmp_path, url="http://localhost:1")


@pytest.mark.parametrize("space", ["l2", "cosine", "ip"])
def test_catalog_made_elsewhere(tmp_path, caplog: pytest.LogCaptureFixture, space: str):
    collection = chromadb.PersistentClient(str(tmp_path)).create_collection(
        "theirs", configuration={"hnsw": {"space": space}}
    )
    nodes = [
        TextNode(id_=film.id, text=film.title + " film", metadata={"title": film.title}) for film in FILMS
    ]
    context = StorageContext.from_defaults(vector_store=ChromaVectorStore(chroma_collection=collection))
    VectorStoreIndex(nodes, storage_context=context, embed_model=HashingEmbedding())
    before = collection.get(include=["metadatas", "documents", "embeddings"])

    with caplog.at_level(logging.WARNING):
        catalog = ItemCatalog.open(tmp_path, name="theirs", embed_model=HashingEmbedding())
        ItemCatalog.open(tmp_path, name="theirs", embed_model=HashingEmbedding())
    assert caplog.text.count("was made elsewhere") == 1
    assert [item.title for item in catalog.items()] == ["Alien", "Bambi", "Casablanca", "Alien"]
    hits = catalog.as_retriever(4).retrieve("bambi")
    assert hits[0].node_id == "b"
    # LlamaIndex embeds metadata with the text unless told not to.
    assert hits[0].score == pytest.approx(cosine("bambi", "title: Bambi\n\nBambi film"), abs=1e-5)
    assert catalog.as_index().as_retriever(similarity_top_k=1).retrieve("bambi")[0].score == hits[0].score
    with pytest.raises(CatalogError, match="made elsewhere and is only read"):
        catalog.sync(FILMS)
    with pytest.raises(EncoderMismatchError, match="vectors of dimension 64"):
        ItemCatalog.open(tmp_path, name="theirs")
    after = collection.get(include=["metadatas", "documents", "embeddings"])
    assert after["metadatas"] == before["metadatas"]
    assert np.array_equal(after["embeddings"], before["embeddings"])


@pytest.mark.slow
def test_real_encoder_finds_the_film():
    films = demo_catalog("films")[:60]
    catalog = ItemCatalog.from_items(films)
    model = catalog.embed_model
    queries = ["a film about " + film.abstract.split(".")[0] for film in films[:20]]
    ranked = catalog.retrieve_batch(queries, 5)
    assert sum(film.id == hits[0][0] for film, hits in zip(films, ranked, strict=False)) >= 18
    vectors = np.array(model.get_text_embedding_batch([film.text() for film in films]))
    scores = vectors @ np.array(model.get_query_embedding(queries[0]))
    best = np.argsort(-scores)[:5]
    assert [item_id for item_id, _ in ranked[0]] == [films[index].id for index in best]
    assert [score for _, score in ranked[0]] == pytest.approx(scores[best].tolist(), abs=1e-4)
