"""What the guide to settings, the first page and "How it works" say is what happens."""

from __future__ import annotations

import re

import pytest

from reges_index.catalog.encoder_names import ENCODER_PRESETS
from reges_index.pipeline import VERSION
from tests.cli.conftest import call
from tests.pages import DOCS, run_page

GUIDE = (DOCS / "guides" / "presets-and-pipelines.md").read_text("utf-8")


def test_the_list_of_presets(monkeypatch):
    [shown] = re.findall(r"^```console\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    printed = call("presets").out.split("\n\n")[0]
    assert [line.rstrip() for line in printed.splitlines()] == shown.splitlines()[1:]


@pytest.mark.parametrize("page", ["guides/presets-and-pipelines.md", "index.md", "how-it-works.md"])
def test_the_blocks_of_a_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_page(page, {"__name__": "guide"})


def test_names_and_version():
    table = re.findall(r"^\| `([\w-]+)` \|", GUIDE, re.MULTILINE)
    assert set(ENCODER_PRESETS) <= set(table)
    assert f"`version` is {VERSION}." in GUIDE
