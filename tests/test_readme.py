"""What the README says can be typed works when it is typed, from top to bottom in one folder."""

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


def blocks(language):
    """Return the README's blocks with their code on the lines on which it stands, for tracebacks."""
    return [
        "\n" * README.count("\n", 0, match.start(2)) + match[2]
        for match in FENCE.finditer(README)
        if match[1] == language
    ]


def commands(program):
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.split(" ")[0] == program]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files that the README speaks of: eight films, two turns."""
    from reges_index import demo_catalog

    folder = tmp_path_factory.mktemp("readme")
    films = [json.loads(film.model_dump_json()) for film in demo_catalog("films")[:8]]
    write_jsonl(folder / "items.jsonl", films)
    message = {"role": "user", "content": "Something scary in space?"}
    turns = [{"id": f"t{n}", "dialog_id": "d", "messages": [message], "mentioned": []} for n in (1, 2)]
    write_jsonl(folder / "turns.jsonl", [{**turn, "targets": [films[0]["id"]]} for turn in turns])
    return folder


@pytest.fixture(scope="module")
def namespace(folder):
    """The names that the Python blocks leave, run in one module, as a reader pastes them."""
    names = {"__name__": "readme"}
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(folder)
        for block in blocks("python"):
            if "as_retriever(" in block and "index" not in names:
                names["index"] = names["catalog"].as_index()  # "your index"
            exec(compile(block, "README.md", "exec"), names)
    names["printed"] = printed.getvalue()
    return names


@pytest.mark.slow
def test_python_blocks_run_and_recommend_items_of_the_catalog(namespace):
    titles = {item.title for item in namespace["catalog"].items()}
    assert len(titles) == 8
    assert namespace["response"].metadata["title"] in titles
    assert namespace["response"].metadata["query"] in namespace["printed"]
    assert len(namespace["chat"].chat_history) >= 4


def test_the_example_of_an_item_can_be_read(tmp_path):
    from reges_index import read_items

    shown = re.search(r"has one item a line: `(\{.*?\})`", README, re.DOTALL)[1]
    row = write_jsonl(tmp_path / "items.jsonl", [json.loads(shown)])
    [item] = read_items(row)
    assert (item.title, item.year, item.creator_role) == ("Alien", 1979, "director")


@pytest.mark.slow
def test_commands_run_in_the_order_given(folder, namespace, monkeypatch):
    monkeypatch.chdir(folder)
    assert len(commands("reges")) > 5
    for words in commands("reges"):
        done = call(*words, *(["--help"] if words[0] in ENDLESS else []), input="\n")
        assert done.code == 0, (words, done.err)
    assert (folder / "report" / "report.html").is_file()


def test_make_targets_and_extras_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert len(commands("make")) > 1
    for words in commands("make"):
        assert re.search(rf"^{words[0]}:", makefile, re.MULTILINE), words
    said = re.search(r"# extras: (.*)", README)[1].split(", ")
    assert set(said) <= set(metadata("reges-index").get_all("Provides-Extra"))


def test_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert len(links) > 5
    assert all((ROOT / link).exists() for link in links), links
