import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from llama_index.core.schema import MetadataMode
from transformers import AutoTokenizer, DPRContextEncoder, DPRQuestionEncoder

from reges_index import Item, ItemCatalog
from reges_index.catalog.encoder import embed_queries, encoder_identity, encoder_spec, resolve_encoder
from reges_index.catalog.local_encoders import DPREmbedding
from reges_index.errors import EncoderMismatchError, ModelError, ModelNotFoundError
from tests.builders import ticks_during
from tests.tiny_dpr import DIMENSION, save_tiny_dpr

TEXTS = ["a deer in the wood", "a ship in deep space with a crew of seven", "x", "ship " * 200]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return save_tiny_dpr(tmp_path_factory.mktemp("dpr"))


@pytest.fixture(scope="module")
def dpr(pair):
    return DPREmbedding(*map(str, pair), device="cpu", embed_batch_size=3)


def reference(kind, folder, text):
    """As the model cards do it."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), kind.from_pretrained(folder).eval()
    with torch.inference_mode():
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=64)
        return model(**inputs).pooler_output[0].numpy()


@pytest.mark.parametrize("text", TEXTS)
def test_each_side_is_its_own_encoder(dpr, pair, text):
    question, context = dpr.get_query_embedding(text), dpr.get_text_embedding(text)
    assert np.allclose(question, reference(DPRQuestionEncoder, pair[0], text), atol=1e-5)
    assert np.allclose(context, reference(DPRContextEncoder, pair[1], text), atol=1e-5)
    assert not np.allclose(question, context, atol=0.1)
    assert len(question) == len(context) == dpr.dimension == DIMENSION


async def test_batches_async_and_threads_give_what_single_texts_give(dpr):
    questions = [dpr.get_query_embedding(text) for text in TEXTS]
    contexts = [dpr.get_text_embedding(text) for text in TEXTS]
    assert np.allclose(dpr.get_text_embedding_batch(TEXTS), contexts, atol=1e-5)
    assert np.allclose(embed_queries(dpr, TEXTS), questions, atol=1e-5)
    assert embed_queries(dpr, []) == []
    assert np.allclose(await asyncio.gather(*map(dpr.aget_query_embedding, TEXTS)), questions, atol=1e-5)
    assert np.allclose(await dpr.aget_text_embedding_batch(TEXTS), contexts, atol=1e-5)
    assert np.allclose(await dpr.aget_text_embedding(TEXTS[0]), contexts[0], atol=1e-5)
    with ThreadPoolExecutor(4) as pool:
        parallel = list(pool.map(dpr.get_query_embedding, TEXTS * 3))
    assert np.allclose(parallel, questions * 3, atol=1e-5)


async def test_the_loop_stays_free(dpr):
    _, ticks, _ = await ticks_during(dpr.aget_text_embedding_batch(["ship " * 60] * 60))
    assert ticks > 3


def test_a_catalog_records_both_sides(tmp_path, pair, dpr):
    items = [Item(id=str(n), title=text[:30]) for n, text in enumerate(TEXTS)]
    name = f"dpr:{pair[0]},{pair[1]}"
    catalog = ItemCatalog.from_items(items, persist_dir=tmp_path / "store", embed_model=name)
    assert catalog.encoder == encoder_identity(dpr)
    assert catalog.encoder.name.count("local:") == 2
    assert catalog.encoder.dimension == DIMENSION
    question = np.array(dpr.get_query_embedding("a ship"))
    for hit in catalog.query("a ship", 4):
        context = np.array(dpr.get_text_embedding(hit.node.get_content(metadata_mode=MetadataMode.NONE)))
        cosine = question @ context / (np.linalg.norm(question) * np.linalg.norm(context))
        assert hit.score == pytest.approx(cosine, abs=1e-3)
    # The same question side with another context side is another encoder.
    question, context = save_tiny_dpr(tmp_path / "other", seed=7)
    for other in (f"dpr:{pair[0]},{context}", f"dpr:{question},{pair[1]}"):
        with pytest.raises(EncoderMismatchError, match="was made with name"):
            ItemCatalog.open(tmp_path / "store", embed_model=other)
    small = save_tiny_dpr(tmp_path / "small", dimension=16)
    with pytest.raises(EncoderMismatchError, match="dimension 32, not 16"):
        ItemCatalog.open(tmp_path / "store", embed_model=f"dpr:{small[0]},{small[1]}")


def test_it_is_loaded_once_and_known_by_its_name(pair):
    name = f"dpr:{pair[0]},{pair[1]}"
    loaded = resolve_encoder(name)
    assert loaded is resolve_encoder(f"dpr: {pair[0]} , {pair[1]}")
    assert encoder_spec(loaded) == encoder_spec(name) == name


def test_what_cannot_be_loaded(tmp_path, pair):
    question, context = map(str, pair)
    with pytest.raises(ModelError, match="holds no DPRQuestionEncoder"):
        DPREmbedding(context, question, device="cpu")
    with pytest.raises(ModelError, match="cannot be loaded"):
        resolve_encoder(f"dpr:{context},{question}")
    small = save_tiny_dpr(tmp_path, dimension=16)
    with pytest.raises(ModelError, match="vectors of 16 numbers"):
        DPREmbedding(str(small[0]), context, device="cpu")
    with pytest.raises(ModelNotFoundError, match="the hub is switched off"):
        resolve_encoder("dpr")
    weights = small[1] / "model.safetensors"
    (small[1] / "pytorch_model.bin").write_bytes(b"pickled")
    weights.unlink()
    with pytest.raises(ModelError, match=r"(?s)context.*save_pretrained"):
        DPREmbedding(str(small[0]), str(small[1]), device="cpu")
