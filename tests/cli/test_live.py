"""Live catalogs on the command line: what chats read is what it reads."""

from __future__ import annotations

import json

import pytest

from reges_index import ItemCatalog, LiveCatalog, ReGeSQueryEngine, demo_catalog
from reges_index.cli.engine_options import EngineOptions
from reges_index.cli.ui import _Engines
from tests.cli.conftest import call


@pytest.fixture(params=["", "lancedb:"])
def place(request, tmp_path):
    """A store with films, live at their second version, and books."""
    where = f"{request.param}{tmp_path / 'store'}"
    live = LiveCatalog.from_items(demo_catalog("films")[:4], persist_dir=where, name="films")
    live.swap(demo_catalog("films")[:6])
    ItemCatalog.from_items(demo_catalog("books")[:3], persist_dir=where, name="books")
    return where


def test_commands_read_the_live_version(place, films, tiny):
    engine, catalog = EngineOptions(store=place, name="films", llm=str(tiny)).engine()
    assert isinstance(catalog, LiveCatalog)
    assert len(engine.recommend("A quiet film?").ranking) == 6
    call("index", films, "--store", place, "--name", "films", "--quiet").fails(2, "is live", "swap")
    call("index", films, "--store", place, "--name", "books", "--quiet")


def test_the_web_chat_offers_a_live_catalog_once(place, tiny):
    engines = _Engines(EngineOptions(store=place, name="books", llm=str(tiny)))
    books, films = engines.catalogs()
    assert (books.name, films.base_name, len(films)) == ("books", "films", 6)
    assert len(engines(films).recommend("A quiet film?").ranking) == 6
    assert engines(books) is engines.engine
    [films, books] = _Engines(EngineOptions(store=place, name="films", llm=str(tiny))).catalogs()
    assert (films.base_name, books.name) == ("films", "books")


def test_a_prediction_keeps_to_the_version_it_began_with(place, turns, tiny, tmp_path, monkeypatch):
    answer = ReGeSQueryEngine.recommend_batch

    def and_then_swap(self, *given, **options):
        found = answer(self, *given, **options)
        LiveCatalog.open(place, name="films").swap(demo_catalog("books")[:2])
        return found

    monkeypatch.setattr(ReGeSQueryEngine, "recommend_batch", and_then_swap)
    out = tmp_path / "out.jsonl"
    words = ("--conversations", turns, "--out", out, "--batch-size", 1, "--limit", 2, "--quiet")
    assert call("predict", "--store", place, "--name", "films", "--model", tiny, *words).code == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [len(row["ranking"]) for row in rows] == [6, 6]
