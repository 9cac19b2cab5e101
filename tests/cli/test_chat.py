from __future__ import annotations

import pytest

from reges_index import ItemCatalog, read_items
from tests.cli.conftest import FILMS, call, reges
from tests.servers.embeddings import EmbeddingsServer
from tests.servers.proxy import PASS, answer, fault_proxy

pytestmark = pytest.mark.timeout(900)  # far from needed, unless the machine is busy

TITLES = {film[1] for film in FILMS}


def answers(text):
    return [line.split("reges  ", 1)[1].split(" (")[0] for line in text.splitlines() if "reges  " in line]


def test_a_conversation_through_a_pipe_with_the_embedded_models(store):
    lines = b"hello!\nSomething scary in space, \xff please.\n"
    found = reges("chat", "--store", store, "--similarity-top-k", 4, "--top-k", 3, input=lines)
    assert found.code == 0, found.err
    assert found.err == ""
    assert "12 items" in found.out
    greeting, film = answers(found.out)
    assert greeting not in TITLES
    assert film in TITLES
    assert "query  " not in found.out  # the fusion reads none, so none is written
    assert found.out.count("probability") == 1
    assert "%" in found.out
    assert "█" in found.out


def test_nothing_is_recommended_twice(store, tiny):
    wishes = "A film about the sea.\nAnother film about the sea.\nOne more about the sea.\n"
    first, *others = answers(call("chat", "--store", store, "--model", tiny, input=wishes).out)
    assert len(others) == 2
    assert first not in others or first == "The Long Orbit"  # the one title that two films have


def test_reset_and_the_empty_line(store, tiny):
    found = call(
        "chat", "--store", store, "--model", tiny, "--top-k", 12,
        input="I loved Paper Boats, what else?\n/reset\nI want something about a hotel.\n\nnever read\n",
    )  # fmt: skip
    assert found.code == 0
    before, after = found.out.split("a new conversation")
    assert "Paper Boats" not in before
    assert "Paper Boats" in after  # forgotten, so that it may be recommended again
    assert len(answers(found.out)) == 2


def test_an_encoder_s_server_that_fails_ends_the_turn_and_not_the_chat(films, tiny, tmp_path, monkeypatch):
    key = "plain-key-0123456789"
    monkeypatch.setenv("OPENAI_LIKE_API_KEY", key)
    with EmbeddingsServer(key) as server, fault_proxy(server.url) as proxy:
        encoder = f"openai-like:m@{proxy.url}"
        ItemCatalog.from_items(read_items(films), persist_dir=tmp_path / "store", embed_model=encoder)
        told = {"error": {"message": f"Incorrect API key provided: {key}."}}
        proxy.faults = [PASS, answer(401, told)]  # the dimension is asked for when the catalog is opened
        found = call(
            "chat", "--store", tmp_path / "store", "--encoder", encoder, "--model", tiny,
            input="A film about the sea.\nA film about the sea.\n",
        )  # fmt: skip
    assert found.code == 0
    assert "gave no vectors: AuthenticationError (HTTP 401)" in found.err
    assert "Traceback" not in found.err
    assert key not in found.out + found.err
    [film] = answers(found.out)
    assert film in TITLES


def test_no_input_at_all(store, tiny):
    assert call("chat", "--store", store, "--model", tiny, input="").code == 0


def test_a_store_that_is_not_there(tmp_path):
    call("chat", "--store", tmp_path / "none", input="hi\n").fails(3, "no store")
