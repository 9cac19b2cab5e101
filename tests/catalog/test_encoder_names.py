import json
import shutil

import pytest
from llama_index.embeddings.huggingface import HuggingFaceEmbedding

from reges_index.catalog.encoder import (
    encoder_identity,
    encoder_spec,
    find_default_encoder,
    open_api_encoder,
    resolve_encoder,
)
from reges_index.catalog.encoder_names import (
    ENCODER_PRESETS,
    EncoderName,
    instructions_for,
    parse_encoder_name,
)
from reges_index.errors import ConfigError
from tests.catalog.hashing import HashingEmbedding

KEY = "sk-secret-0123456789"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (None, EncoderName("reges", "")),
        ("embedded", EncoderName("reges", "")),
        ("minilm", EncoderName("sentence-transformers", "sentence-transformers/all-MiniLM-L6-v2")),
        ("bge-large", EncoderName("sentence-transformers", "BAAI/bge-large-en-v1.5")),
        ("./my:model", EncoderName("sentence-transformers", "./my:model")),
        ("dpr:a/b, c/d", EncoderName("dpr", "a/b", context="c/d")),
        ("text-embedding-3-large", EncoderName("openai", "text-embedding-3-large")),
        ("openai-like:m@x@http://h:1/v1", EncoderName("openai", "m@x", url="http://h:1/v1")),
    ],
)
def test_names_are_taken_apart_and_put_together(name, parts):
    assert parse_encoder_name(name) == parts
    assert parse_encoder_name(str(parts)) == parts


@pytest.mark.parametrize(
    "name", ["", "  ", "dpr:one", "dpr:a,", "dpr:a,b,c", "openai:", "openai-like:m@nowhere"]
)
def test_names_that_are_none(name):
    with pytest.raises(ConfigError):
        parse_encoder_name(name)


def test_a_url_with_a_password_is_refused_without_repeating_it():
    for url in ("http://me:pass123@h/v1", "http://pass123@h/v1", "http://h/v1?api_key=pass123"):
        with pytest.raises(ConfigError) as error:
            parse_encoder_name(f"openai-like:m@{url}")
        assert "pass123" not in str(error.value)


def test_openai_is_opened_with_the_key_from_the_environment(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        resolve_encoder("text-embedding-3-large")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_LIKE_API_KEY", raising=False)
    model = open_api_encoder("text-embedding-3-large")
    identity = encoder_identity(model)  # without a request: there is no network here
    assert (identity.name, identity.dimension) == ("text-embedding-3-large", 3072)
    assert KEY not in repr(identity)
    assert encoder_spec(model) == "text-embedding-3-large"
    assert encoder_spec(model.model_copy(update={"dimensions": 256})) is None  # the name would lose that
    other = open_api_encoder("m", "http://127.0.0.1:9/v1")
    assert other.api_key == "not-needed"  # OpenAI's key is not for others
    assert encoder_spec(other) == "openai-like:m@http://127.0.0.1:9/v1"


def test_the_query_instruction_of_bge_goes_with_its_name():
    """BGE itself is not here; MiniLM under its name takes the instruction and the identity records it."""
    from reges_index.catalog.local_encoders import LocalEncoder

    model = LocalEncoder("BAAI/bge-large-en-v1.5", str(find_default_encoder()))
    identity = encoder_identity(model)
    assert identity.name == "BAAI/bge-large-en-v1.5"
    assert identity.query_instruction == "Represent this sentence for searching relevant passages: "
    assert identity.text_instruction == ""
    asked = model.get_query_embedding("a ship")
    assert asked == pytest.approx(model.get_text_embedding(identity.query_instruction + "a ship"), abs=1e-5)


@pytest.mark.parametrize(
    ("name", "query", "text"),
    [
        ("intfloat/multilingual-e5-small", "query: ", "passage: "),
        ("/models/e5-base-v2/", "query: ", "passage: "),
        ("nomic-embed-text:latest", "search_query: ", "search_document: "),
        ("intfloat/multilingual-e5-large-instruct", "Instruct: ", ""),
        ("/home/e5-base/all-MiniLM-L12-v2", "", ""),
    ],
)
def test_instructions_of_models_that_need_them(name, query, text):
    told = instructions_for(name)
    assert told.query.startswith(query)
    assert bool(told.query) == bool(query)
    assert told.text == text
    assert instructions_for("somebody/new-model") is None


def test_instructions_are_the_models_own_or_those_of_its_card_or_a_warning(tmp_path, caplog):
    """Other models are not here; MiniLM under their names, or with prompts of its own, takes their part."""
    from reges_index.catalog.local_encoders import LocalEncoder

    source = find_default_encoder()
    known = LocalEncoder("intfloat/e5-base-v2", str(source))
    assert known.get_text_embedding("a ship") == pytest.approx(
        LocalEncoder(ENCODER_PRESETS["embedded"], str(source)).get_text_embedding("passage: a ship"), abs=1e-5
    )
    assert encoder_identity(known).query_instruction == "query: "
    folder = tmp_path / "mine"
    shutil.copytree(source, folder)
    assert encoder_identity(str(folder)).text_instruction == ""
    assert "instruction" in caplog.text
    caplog.clear()
    other = tmp_path / "yours"
    shutil.copytree(source, other)
    prompts = {"query": "find: ", "document": "doc: "}
    (other / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    identity = encoder_identity(str(other))
    assert (identity.query_instruction, identity.text_instruction) == ("find: ", "doc: ")
    assert caplog.text == ""
    stock = HuggingFaceEmbedding(str(source), device="cpu")
    stock.model_name = "intfloat/e5-base-v2"
    assert encoder_identity(stock).query_instruction == ""
    assert "'query: '" in caplog.text


def test_what_no_name_describes_has_none():
    assert encoder_spec(HashingEmbedding()) is None
    assert encoder_spec(str(find_default_encoder())) == str(find_default_encoder())
    assert encoder_spec(None) == "embedded"
    assert encoder_spec("nobody/nothing") == "nobody/nothing"
