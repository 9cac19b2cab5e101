"""JSON that nests without end, as a damaged or hostile file may."""

from __future__ import annotations

import pytest

from reges_index.errors import InputError
from reges_index.evaluation.files import json_lines, read_json

DEEP = '{"a": ' + "[" * 200_000


def test_lines_that_nest_too_deeply_are_named(tmp_path):
    (tmp_path / "deep.jsonl").write_text('{"a": 1}\n' + DEEP + "\n")
    with pytest.raises(InputError, match=r"deep\.jsonl:2: nested too deeply"):
        list(json_lines(tmp_path / "deep.jsonl"))


def test_files_that_nest_too_deeply_are_named(tmp_path):
    (tmp_path / "deep.json").write_text(DEEP)
    with pytest.raises(InputError, match=r"deep\.json: nested too deeply"):
        read_json(tmp_path / "deep.json")
