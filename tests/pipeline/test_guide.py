"""What docs/guides/presets-and-pipelines.md says is what happens."""

from __future__ import annotations

import re
from pathlib import Path

from reges_index import build_engine
from reges_index.catalog.encoder_names import ENCODER_PRESETS
from reges_index.pipeline.file import VERSION
from tests.cli.conftest import call
from tests.pipeline.test_build import SAID, same

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "presets-and-pipelines.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)


def test_the_list_of_presets():
    [shown] = blocks("console")
    printed = call("presets").out.split("\n\n")[0]
    assert [line.rstrip() for line in printed.splitlines()] == shown.splitlines()[1:]


def test_saving_and_loading(settings, catalog, tmp_path, monkeypatch):
    """The first block's models are not here; the last one is run with an engine of tiny ones."""
    monkeypatch.chdir(tmp_path)
    first, last = blocks("python")
    compile(first, "guide", "exec")
    engine = build_engine(settings, catalog)
    names = {"engine": engine}
    exec(compile(last, "guide", "exec"), names)
    assert same(names["engine"].recommend(SAID), engine.recommend(SAID))
    assert names["engine"] is not engine


def test_names_and_version():
    table = re.findall(r"^\| `([\w-]+)` \|", GUIDE, re.MULTILINE)
    assert table == list(ENCODER_PRESETS)
    assert f"`version` is {VERSION}." in GUIDE
