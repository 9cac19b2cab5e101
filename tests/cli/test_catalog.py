"""`reges catalog`: what is swapped on the command line is what an app sees."""

from __future__ import annotations

import pytest

from reges_index import LiveCatalog, read_items
from reges_index.catalog import encoder as encoders
from reges_index.catalog.encoder_names import DEFAULT_ENCODER
from tests.catalog.hashing import HashingEmbedding
from tests.cli.conftest import call, film_rows, write_jsonl

HASHING = HashingEmbedding().model_name


@pytest.fixture(autouse=True)
def hashing(monkeypatch):
    """The hashing encoder, under its name for ``--encoder``."""
    monkeypatch.setitem(encoders._loaded, HASHING, HashingEmbedding())


@pytest.fixture
def few(tmp_path):
    return write_jsonl(tmp_path / "few.jsonl", film_rows()[:5])


@pytest.fixture(params=["", "qdrant:", "lancedb:"])
def place(request, films, tmp_path):
    """Options that name a catalog of twelve films, as `reges index` makes it."""
    where = f"{request.param}{tmp_path / 'store'}"
    words = ("--store", where, "--name", "films", "--encoder", HASHING)
    assert call("index", films, *words, "--quiet").code == 0
    return words


@pytest.fixture
def folder(films, tmp_path):
    """The same in Chroma, for what does not depend on the store."""
    words = ("--store", tmp_path / "store", "--name", "films", "--encoder", HASHING)
    assert call("index", films, *words, "--quiet").code == 0
    return words


def versions(place):
    found = call("catalog", "versions", *place, "--json").json["versions"]
    return [(version["number"], version["name"], version["items"], version["is_live"]) for version in found]


def test_swap_roll_back_and_prune(place, few):
    assert versions(place) == [(1, "films", 12, True)]
    found = call("catalog", "swap", few, *place, "--json", "--quiet")
    assert found.json["version"] == {"number": 2, "name": "films.v2", "items": 5, "is_live": True}
    assert (found.json["name"], found.json["store"]) == ("films", place[1])
    assert "is live from now on" in found.err
    assert versions(place) == [(1, "films", 12, False), (2, "films.v2", 5, True)]
    assert call("catalog", "rollback", *place, "--json").json["version"]["number"] == 1
    assert call("catalog", "rollback", *place, "--to", 2, "--json").json["version"]["number"] == 2
    again = call("catalog", "swap", few, *place, "--json", "--quiet")
    assert again.json["version"]["name"] == "films.v3"
    assert again.err == ""
    assert call("catalog", "prune", *place, "--json").json["pruned"] == [
        {"number": 1, "name": "films", "deleted": False}  # made by `reges index`
    ]
    assert call("catalog", "prune", "--keep", 0, *place, "--json").json["pruned"] == [
        {"number": 2, "name": "films.v2", "deleted": True}
    ]
    assert versions(place) == [(3, "films.v3", 5, True)]


def test_an_app_that_runs_sees_the_swap(folder, few):
    _, store, _, name, _, _ = folder
    app = LiveCatalog.open(store, name=name, embed_model=HashingEmbedding())
    assert len(app) == 12
    assert call("catalog", "swap", few, *folder).code == 0
    assert app.ids() == ["f01", "f02", "f03", "f04", "f05"]
    call("catalog", "rollback", *folder)
    assert len(app) == 12


def test_what_is_said_to_people(folder, few):
    swapped = call("catalog", "swap", few, *folder, "--quiet")
    assert f"version 2 of catalog 'films' of {folder[1]} is live: 5 items (films.v2)" in swapped.out
    listed = [line.split() for line in call("catalog", "versions", *folder).out.splitlines()[1:]]
    assert listed == [["1", "12", "films"], ["2", "5", "films.v2", "live"]]
    assert "nothing to prune: 2 kept" in call("catalog", "prune", *folder).out
    assert "films): forgotten" in call("catalog", "prune", *folder, "--keep", 0).out


def test_what_cannot_be(folder, few, tmp_path):
    call("catalog", "rollback", *folder).fails(2, "no earlier version")
    call("catalog", "rollback", *folder, "--to", 7).fails(2, "no version 7")
    call("catalog", "prune", *folder, "--keep", -1).fails(2, "--keep")
    call("catalog", "swap", tmp_path / "none.jsonl", *folder).fails(2, "none.jsonl")
    call("catalog", "swap", few, *folder[:-2]).fails(3, "was made with")  # the default encoder
    call("catalog", "swap", few).fails(2, "--store is missing")
    call("catalog", "versions", "--store", "http://localhost:9").fails(2, "--state-file is missing")
    call("catalog", "versions", "--store", tmp_path / "none").fails(3, "none")
    call("catalog", "versions", *folder[:2], "--name", "books").fails(3, "no catalog 'books'")
    assert versions(folder) == [(1, "films", 12, True)]


def test_another_state_file(folder, few, tmp_path):
    kept = ("--state-file", tmp_path / "shared.json")
    assert call("catalog", "swap", few, *folder, *kept, "--quiet").code == 0
    assert versions(folder) == [(1, "films", 12, True)]  # the folder says nothing of it
    assert versions((*folder, *kept))[-1] == (2, "films.v2", 5, True)


def test_doctor_lists_a_live_catalog_once(films, tmp_path):
    items = read_items(films)
    encoder = HashingEmbedding(model_name=DEFAULT_ENCODER, dimension=384)  # it is told by its name
    live = LiveCatalog.from_items(items, persist_dir=tmp_path, name="films", embed_model=encoder)
    for count in (6, 7):
        live.swap(items[:count])
    live.prune()
    other = LiveCatalog.from_items(items, persist_dir=tmp_path, name="hashed", embed_model=HashingEmbedding())
    other.swap(items[:3])
    found = call("doctor", "--store", tmp_path, "--json").json["findings"]
    told = {row["subject"]: row["detail"] for row in found if row["subject"].startswith("catalog ")}
    assert set(told) == {"catalog films", "catalog hashed"}
    assert told["catalog films"] == f"7 items, {DEFAULT_ENCODER}, live at version 3 (2 kept)"
    assert told["catalog hashed"].endswith("live at version 2 (2 kept)")
