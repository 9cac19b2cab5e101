"""What the README says can be typed works, in one folder, and prints what the README shows."""

import contextlib
import io
import json
import re
import shlex
from importlib.metadata import metadata
from pathlib import Path

import pytest

from tests.cli.conftest import call, write_jsonl

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# These do not end by themselves; that they exist is all that is asked of them here.
ENDLESS = {"ui"}


def blocks():
    """Return (language, code) of the README's blocks, with the code on its own lines, for tracebacks."""
    return [(m[1], "\n" * README.count("\n", 0, m.start(2)) + m[2]) for m in FENCE.finditer(README)]


def commands(program):
    shell = "\n".join(code for language, code in blocks() if language == "bash")
    lines = shell.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.split(" ")[0] == program]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files that the README speaks of: twelve films, a few turns."""
    from reges_index import demo_catalog

    folder = tmp_path_factory.mktemp("readme")
    films = [json.loads(film.model_dump_json()) for film in demo_catalog("films")[:12]]
    write_jsonl(folder / "items.jsonl", films)
    message = {"role": "user", "content": "Something scary in space?"}
    turns = [{"id": f"t{n}", "dialog_id": "d", "messages": [message], "mentioned": []} for n in (1, 2)]
    write_jsonl(folder / "turns.jsonl", [{**turn, "targets": [films[0]["id"]]} for turn in turns])
    return folder


@pytest.fixture(scope="module")
def ran(folder):
    """What each Python block printed beside what the README shows for it, and the names that they left."""
    from reges_index import ItemCatalog, LocalLM, demo_catalog

    # What a reader has: an index with plain MiniLM vectors, and an LLM.
    gear = ItemCatalog.from_items(demo_catalog("hikinggear"), embed_model="minilm")
    names = {"__name__": "readme", "index": gear.as_index(), "llm": LocalLM.default()}
    pairs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        all_blocks = blocks()
        for place, (language, code) in enumerate(all_blocks):
            if language != "python":
                continue
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, "README.md", "exec"), names)
            after = all_blocks[place + 1] if place + 1 < len(all_blocks) else ("", "")
            if after[0] == "text":
                pairs.append((after[1].strip(), printed.getvalue().strip()))
    return pairs, names


@pytest.mark.slow
def test_python_blocks_print_what_is_shown(ran):
    pairs, _ = ran
    assert len(pairs) >= 2
    for shown, printed in pairs:
        assert printed == shown


@pytest.mark.slow
def test_commands_run_in_the_order_given(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert len(commands("reges")) > 5
    for words in commands("reges"):
        done = call(*words, *(["--help"] if words[0] in ENDLESS else []), input="/quit\n")
        assert done.code == 0, (words, done.err)


def test_make_targets_and_extras_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert commands("make")
    for words in commands("make"):
        assert re.search(rf"^{words[0]}:", makefile, re.MULTILINE), words
    extras = set(metadata("reges-index").get_all("Provides-Extra"))
    named = set(re.findall(r"\[([\w,]+)\]\"", README)) | set(re.findall(r"reges-index\[([\w,]+)\]", README))
    assert {extra for group in named for extra in group.split(",")} <= extras


def test_links_and_pictures_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert len(links) > 5
    assert all((ROOT / link).exists() for link in links), links


def test_it_can_be_read_in_one_sitting():
    assert len(README.splitlines()) <= 140
