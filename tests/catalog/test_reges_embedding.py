"""R, the encoder that ships, as LlamaIndex uses it."""

import asyncio
import shutil

import numpy as np
import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode

from reges_index.catalog import Item, ItemCatalog, ReGeSEmbedding, resolve_encoder
from reges_index.catalog.encoder import DEFAULT_ENCODER, encoder_identity, encoder_spec, identity_name
from reges_index.catalog.encoder_names import adapter_folder
from reges_index.errors import ConfigError, ModelError, ModelNotFoundError

SHELF = {
    "tent": "Fell tent for two. Light, low and calm in wind; three kilos with its pegs.",
    "stove": "Pan stove. Boils a litre in three minutes, also with cold gas.",
    "mat": "Moss mat. Warm on frozen ground, and thick enough for people who sleep on their side.",
    "lamp": "Glow lamp. Hangs in the tent and lasts forty hours.",
}
ASKED = {"my hip hurts at night when we camp on hard ground": "mat", "i want hot tea quickly": "stove"}


@pytest.fixture(scope="module")
def both():
    return resolve_encoder("reges")


@pytest.fixture(scope="module")
def queries():
    return resolve_encoder("reges-queries")


def nodes():
    return [TextNode(id_=name, text=text) for name, text in SHELF.items()]


def test_a_stock_index_with_it_finds_what_is_asked_for(both):
    index = VectorStoreIndex(nodes(), embed_model=both)
    for asked, name in ASKED.items():
        assert index.as_retriever(similarity_top_k=1).retrieve(asked)[0].node.node_id == name


def test_an_index_that_the_plain_encoder_made_is_searched_as_it_is(queries):
    index = VectorStoreIndex(nodes(), embed_model=resolve_encoder("minilm"))
    for asked, name in ASKED.items():
        retriever = index.as_retriever(embed_model=queries, similarity_top_k=1)
        assert retriever.retrieve(asked)[0].node.node_id == name
    assert queries.get_text_embedding(SHELF["mat"]) == pytest.approx(
        resolve_encoder("minilm").get_text_embedding(SHELF["mat"]), abs=1e-5
    )


def test_one_text_many_texts_and_async_agree(both):
    texts = list(SHELF.values())
    one = [both.get_text_embedding(text) for text in texts]
    assert np.allclose(both.get_text_embedding_batch(texts), one, atol=1e-5)
    assert np.allclose(asyncio.run(both.aget_text_embedding(texts[0])), one[0], atol=1e-5)
    query = both.get_query_embedding("tea")
    assert np.allclose(asyncio.run(both.aget_query_embedding("tea")), query, atol=1e-5)
    assert np.allclose(both.get_query_embeddings(["tea", "a"])[0], query, atol=1e-5)
    assert np.linalg.norm(query) == pytest.approx(1, abs=1e-5)


def test_names_say_what_vectors_can_be_compared(both, queries):
    assert encoder_identity(both) == encoder_identity("reges") == encoder_identity(None)
    assert encoder_identity(both).name.startswith("reges:")
    assert encoder_identity(queries).name == identity_name("reges-queries") == DEFAULT_ENCODER
    assert encoder_spec(both) == "embedded"
    assert encoder_spec(queries) == "reges-queries"


def test_a_catalog_by_the_plain_encoder_goes_on_working(tmp_path, caplog):
    items = [Item(id=name, title=name, abstract=text) for name, text in SHELF.items()]
    ItemCatalog.from_items(items, persist_dir=tmp_path, embed_model="minilm")
    with caplog.at_level("INFO", "reges_index.catalog"):
        old = ItemCatalog.open(tmp_path)
    assert old.encoder.name == DEFAULT_ENCODER
    assert "indexed anew" in caplog.text
    assert old.as_retriever(similarity_top_k=1).retrieve("forty hours of light")[0].node.node_id == "lamp"
    new = ItemCatalog.from_items(items, persist_dir=tmp_path, name="new")
    assert new.encoder.name.startswith("reges:")


def test_an_adapter_of_your_own_is_named_by_its_folder(both, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(adapter_folder("trained"), mine)
    own = resolve_encoder(f"reges:{mine}")
    assert np.allclose(own.get_query_embedding("tea"), both.get_query_embedding("tea"), atol=1e-5)
    assert encoder_spec(own) == f"reges:{mine}"
    (mine / "adapter_model.safetensors").write_bytes(b"half of it")
    with pytest.raises(ModelError, match="damaged"):
        ReGeSEmbedding(adapter=mine)
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        ReGeSEmbedding(adapter=tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="items"):
        ReGeSEmbedding("frozen", adapter=adapter_folder("trained"))
    with pytest.raises(ConfigError, match="items"):
        ReGeSEmbedding("both")
