"""The guides to stores and live catalogs do what they say, block by block."""

import pytest

from tests.pages import run_page


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_live_catalogs(here):
    names = {"__name__": "guide"}
    run_page("guides/live-catalogs.md", names)
    assert names["found"].candidates


def test_stores(here):
    pytest.importorskip("qdrant_client")
    pytest.importorskip("lancedb")
    names = {"__name__": "guide"}
    run_page("guides/stores.md", names)
    assert len(names["hits"]) == 5
