"""The notebooks run from top to bottom, offline, and what is kept in them is what such a run printed."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
# Folders that only the machine has on which the outputs were made.
MACHINE = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|Users|private|var|opt)/")

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def broken_promises(notebook):
    """Return what the answers of a notebook lack, or hold, against the expectations written at their cells.

    ``metadata.expect``: in the first ``lines`` printed that are not empty, each of ``must`` and one of
    ``must_any`` stands, and none of ``must_not``.
    """
    found = []
    for cell in code_cells(notebook):
        expect = cell.metadata.get("expect")
        if expect is None:
            continue
        # How a kernel cuts what is printed into outputs differs from run to run, and with it the empty lines.
        lines = [line for line in printed(cell).splitlines() if line.strip()]
        shown = "\n".join(lines[: expect["lines"]])
        found += [f"{word!r} is missing in {shown!r}" for word in expect.get("must", []) if word not in shown]
        found += [f"{word!r} stands in {shown!r}" for word in expect.get("must_not", []) if word in shown]
        some = expect.get("must_any", [])
        if some and not any(word in shown for word in some):
            found.append(f"none of {some} is in {shown!r}")
    return found


def printed(cell):
    """Return all text that a cell left behind; not what was logged."""
    texts = []
    for output in cell.outputs:
        if output.get("name") == "stderr":
            continue
        data = output.get("data", {})
        texts += [output.get("text", ""), *(text for kind, text in data.items() if kind.startswith("text/"))]
    return "\n".join(texts)


def test_there_are_six_in_order():
    assert [path.name[:3] for path in NOTEBOOKS] == [f"0{number}_" for number in range(1, 7)]


@pytest.mark.slow
@pytest.mark.timeout(900)
@each
def test_runs_and_leaves_nothing_behind(path, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = {file: file.stat().st_mtime_ns for file in EXAMPLES.rglob("*")}
    notebook = nbformat.read(path, as_version=4)
    for cell in code_cells(notebook):
        cell.outputs = []
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()  # raises CellExecutionError
    assert any(printed(cell) for cell in code_cells(notebook))
    assert not broken_promises(notebook)
    assert {file: file.stat().st_mtime_ns for file in EXAMPLES.rglob("*")} == before
    assert not list(tmp_path.iterdir())


@each
def test_kept_outputs_are_of_one_whole_run(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert not [output for output in cell.outputs if output.output_type == "error"]
        if "print(" in cell.source:
            assert printed(cell).strip(), cell.source


@each
def test_kept_answers_keep_what_their_dialogues_ask_for(path):
    assert not broken_promises(nbformat.read(path, as_version=4))


def test_most_notebooks_say_what_their_answers_must_hold():
    told = [
        path
        for path in NOTEBOOKS
        if any("expect" in cell.metadata for cell in code_cells(nbformat.read(path, as_version=4)))
    ]
    assert len(told) >= 5


@each
def test_kept_text_names_no_folder_of_the_machine_it_was_made_on(path):
    found = MACHINE.findall(path.read_text(encoding="utf-8"))
    assert not found
    for cell in nbformat.read(path, as_version=4).cells:
        assert not set(cell.metadata) - {"expect"}, "execution times change with every run"


def test_the_list_of_examples_has_each_of_them():
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\((.+\.ipynb)\)", listed) == [path.name for path in NOTEBOOKS]


@each
def test_links_lead_to_notebooks_that_are_there(path):
    source = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    links = re.findall(r"\]\(([^)#:]+)\)", source)
    assert all((EXAMPLES / link).is_file() for link in links), links
