"""Every Python block of the guides to stores and live catalogs runs, from top to bottom of its page."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

from reges_index import demo_catalog

GUIDES = Path(__file__).parents[2] / "docs" / "guides"


def run(page: str, names: dict[str, Any]) -> list[str]:
    """Run the blocks and return what each printed."""
    text = (GUIDES / page).read_text("utf-8")
    printed = []
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(block, page, "exec"), names)
        printed.append(out.getvalue())
    return printed


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    films = demo_catalog("films")
    return {
        "__name__": "guide",
        "films": films[:12],
        "items": films[:12],
        "more_films": films[12:20],
        "books": demo_catalog("books")[:8],
        "llm": tiny,
    }


def test_live_catalogs(names: dict[str, Any]):
    printed = run("live-catalogs.md", names)
    assert printed[0] == "0 0 7 12\n"
    assert printed[1] == "2 films.v2 20\n"
    assert "the catalog is empty" in printed[2]
    assert printed[2].endswith("\n20\n")
    assert printed[3].endswith("| True\n")
    assert printed[4] == "2 9\n"
    assert "2 films.v2 20 True" in printed[5]
    assert printed[6] == "True\n"
    assert len(printed) == 9
    years = [candidate.item.year for candidate in names["found"].candidates]
    assert years
    assert all(1990 <= year < 2000 for year in years)


def test_stores(names: dict[str, Any]):
    pytest.importorskip("qdrant_client")
    pytest.importorskip("lancedb")
    printed = run("stores.md", names)
    assert len(printed) == 4
    assert printed[0].split() == ["12", "12"]
    assert printed[1] == "12\n"
    assert printed[2] == "True\n"
