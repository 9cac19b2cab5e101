"""Encoders behind an API: a real server on loopback, and a proxy before it that breaks what comes."""

import json
import traceback
from functools import partial

import pytest

from reges_index import ItemCatalog
from reges_index.catalog.encoder import encoder_spec, resolve_encoder
from reges_index.catalog.encoder_names import EncoderName
from reges_index.errors import EncoderServerError, ModelError
from reges_index.remote import RetryPolicy
from tests.builders import BOTH_WAYS, item
from tests.catalog.hashing import HashingEmbedding
from tests.servers.embeddings import EmbeddingsServer
from tests.servers.proxy import Fault, answer, fault_proxy

KEY = "sk-live-0123456789abcdef"
WRONG = "plain-wrong-key-98765"
BROKEN = {"error": {"message": f"no, {KEY}"}}


def vectors(*rows):
    return answer(200, {"data": [{"embedding": row} for row in rows]})


# Each is an answer to one text.
FAULTS = {
    "429": answer(429, BROKEN, retry_after="0.01"),
    "503 as a page": answer(503, "<html>busy</html>", kind="text/html"),
    "hung up": Fault(kept=0.0),
    "cut in the middle": Fault(kept=0.7),
    "a page": answer(200, "<html>Welcome!</html>", kind="text/html"),
    "half JSON": answer(200, '{"data": [{"embe'),
    "other JSON": answer(200, {"hello": 1}),
    "a list": answer(200, []),
    "no vectors": vectors(),
    "two vectors": vectors([1.0, 0.0], [0.0, 1.0]),
    "an empty vector": vectors([]),
    "words": vectors(["a", "b"]),
    "no number": answer(200, '{"data": [{"embedding": [NaN, 1.0]}]}'),
    "no base64": vectors("?"),
    "no rows": answer(200, {"data": [1]}),
    "strange numbers": answer(200, {"data": [{"embedding": [1.0], "index": 4}]}),
}


@pytest.fixture(scope="module")
def server():
    with EmbeddingsServer(KEY) as running:
        yield running


@pytest.fixture
def proxy(server):
    with fault_proxy(server.url) as between:
        yield between


@pytest.fixture
def encoder(proxy, monkeypatch):
    """As a name opens it, with one retry and the key from the environment."""
    monkeypatch.setenv("OPENAI_LIKE_API_KEY", KEY)
    # One for each test, since the proxy's port differs.
    return resolve_encoder(f"openai-like:m@{proxy.url}").model_copy(update={"max_retries": 1})


async def embed(encoder, asynchronous, text="a ship"):
    return await encoder.aget_query_embedding(text) if asynchronous else encoder.get_query_embedding(text)


@BOTH_WAYS
async def test_vectors_are_the_servers_in_the_order_of_the_texts(encoder, proxy, asynchronous):
    texts = ["a ship\nat sea", "two robots", "a wedding"]
    if asynchronous:
        found = await encoder.aget_text_embedding_batch(texts)
    else:
        found = encoder.get_text_embedding_batch(texts)
    for vector, text in zip(found, texts, strict=True):
        wanted = HashingEmbedding().get_text_embedding(text.replace("\n", " "))
        assert vector == pytest.approx(wanted, abs=1e-6)
    assert proxy.requests == 1
    floats = encoder.model_copy(update={"additional_kwargs": {"encoding_format": "float"}})
    assert await embed(floats, asynchronous, "two robots") == pytest.approx(found[1], abs=1e-6)
    if asynchronous:
        assert await encoder.aget_text_embedding("two robots") == found[1]
    else:
        assert encoder.get_text_embedding("two robots") == found[1]


def test_the_name_says_it_all(encoder, proxy):
    assert encoder_spec(encoder) == str(EncoderName("openai", "m", url=proxy.url))
    assert encoder_spec(encoder.model_copy(update={"dimensions": 4})) is None


@BOTH_WAYS
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_is_retried_and_one_that_stays_is_one_clear_error(
    encoder, proxy, fault, asynchronous, caplog, monkeypatch
):
    from reges_index.catalog import api_encoder

    monkeypatch.setattr(api_encoder, "RetryPolicy", partial(RetryPolicy, first_wait_s=0.01))
    proxy.faults = [FAULTS[fault]]
    assert await embed(encoder, asynchronous) == pytest.approx(
        HashingEmbedding().get_query_embedding("a ship"), abs=1e-6
    )
    assert proxy.requests == 2
    proxy.always, proxy.requests = FAULTS[fault], 0
    with pytest.raises(EncoderServerError, match=f"encoder 'm' at {proxy.url} gave no vectors") as caught:
        await embed(encoder, asynchronous)
    assert caught.value.attempts == proxy.requests == 2  # and not LlamaIndex's tries times its client's
    assert "after 2 attempts" in caught.value.message
    assert caught.value.hint
    told = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert KEY not in told


@BOTH_WAYS
@pytest.mark.parametrize(
    ("told", "hint"),
    [
        (answer(404, {"error": {"message": "no such model"}}), "know a model 'm'"),
        (answer(400, {"error": {"message": "too long"}}), "longer than the model takes"),
        (answer(429, BROKEN, retry_after="3600"), "wait 3600 s"),
    ],
)
async def test_what_asking_again_would_not_change(encoder, proxy, asynchronous, told, hint):
    proxy.always = told
    with pytest.raises(EncoderServerError, match="gave no vectors:") as caught:
        await embed(encoder, asynchronous)
    assert (proxy.requests, caught.value.attempts) == (1, 1)
    assert caught.value.status in (400, 404, 429)
    assert hint in caught.value.hint


@BOTH_WAYS
async def test_a_wrong_key_is_told_without_the_key(encoder, proxy, asynchronous):
    wrong = encoder.model_copy(update={"api_key": WRONG, "max_retries": 3})
    wrong._client = wrong._aclient = None  # made with the key of the first
    with pytest.raises(EncoderServerError, match=r"HTTP 401.*Incorrect API key provided: \*\*\*") as caught:
        await embed(wrong, asynchronous)
    assert proxy.requests == 1
    assert isinstance(caught.value, ModelError)
    assert "OPENAI_LIKE_API_KEY" in caught.value.hint
    assert WRONG not in "".join(traceback.format_exception(caught.value))


def test_instructions_go_with_the_model_s_name(proxy, server, monkeypatch):
    monkeypatch.setenv("OPENAI_LIKE_API_KEY", KEY)
    encoder = resolve_encoder(f"openai-like:nomic-embed-text@{proxy.url}")
    encoder.get_query_embedding("a ship")
    encoder.get_text_embedding_batch(["a ship"])
    sent = json.dumps(server.requests[-2:])
    assert "search_query: a ship" in sent
    assert "search_document: a ship" in sent


def test_a_program_s_own_error_is_raised_as_it_is(encoder, proxy):
    with pytest.raises(TypeError):
        encoder.model_copy(update={"additional_kwargs": {"no_such": 1}}).get_query_embedding("a ship")
    assert proxy.requests == 0


def test_a_catalog_by_name(proxy, server, monkeypatch):
    monkeypatch.setenv("OPENAI_LIKE_API_KEY", KEY)
    before = len(server.requests)
    films = [item("1", "A ship"), item("2", "Two robots"), item("3", "A wedding")]
    catalog = ItemCatalog.from_items(films, embed_model=f"openai-like:m@{proxy.url}")
    assert catalog.query("Two robots", 1)[0].node.node_id == "2"
    assert len(server.requests) - before == 3  # its dimension, the items, the query
    assert json.dumps(server.requests).count("encoding_format") >= 3
    proxy.always = answer(401, BROKEN)
    with pytest.raises(EncoderServerError) as caught:
        catalog.query("a wedding", 1)
    assert KEY not in str(caught.value)
