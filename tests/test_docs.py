"""The documentation site builds without a warning, knows all public names, and asks no other host."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer

import reges_index
from reges_index.cli.app import app

ROOT = Path(__file__).parents[1]
# What a browser fetches by itself, without a click.
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "object": "data"}


def test_the_first_page_leads_to_every_guide():
    linked = set(re.findall(r"\]\(guides/([\w-]+\.md)\)", (ROOT / "docs" / "index.md").read_text("utf-8")))
    assert linked == {path.name for path in (ROOT / "docs" / "guides").glob("*.md")}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    words = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-q",
        "-f",
        ROOT / "mkdocs.yml",
        "-d",
        folder,
    ]
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,  # the build must not depend on where it is started
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not re.search(r"WARNING|ERROR", done.stderr), done.stderr
    return folder


def test_every_public_name_is_in_the_reference(site):
    pages = "".join(page.read_text(encoding="utf-8") for page in (site / "reference").rglob("*.html"))
    missing = [name for name in (*reges_index.__all__, "build_ui") if f'id="reges_index.{name}"' not in pages]
    assert not missing, f"add to a page in docs/reference: {missing}"


def test_every_command_is_on_the_page_of_the_command_line(site):
    page = (site / "cli" / "index.html").read_text(encoding="utf-8")

    def paths(group, path):
        for name, command in group.commands.items():
            yield f"{path} {name}"
            yield from paths(command, f"{path} {name}") if hasattr(command, "commands") else ()

    missing = [
        path for path in paths(typer.main.get_command(app), "reges") if f"<code>{path}</code>" not in page
    ]
    assert not missing


def test_every_notebook_has_a_page(site):
    notebooks = sorted((ROOT / "examples").glob("*.ipynb"))
    assert all((site / "examples" / notebook.stem / "index.html").is_file() for notebook in notebooks)


class _Fetches(HTMLParser):
    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attrs):
        self.addresses.append(dict(attrs).get(FETCHED.get(tag, ""), "") or "")


def test_no_page_fetches_from_another_host(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        parser = _Fetches()
        parser.feed(page.read_text(encoding="utf-8"))
        assert any(address.endswith(".css") for address in parser.addresses), page
        foreign = [address for address in parser.addresses if re.match(r"(https?:)?//", address)]
        assert not foreign, (page, foreign)
    styles = "".join(style.read_text(encoding="utf-8") for style in site.rglob("*.css"))
    assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", styles)


@pytest.mark.parametrize("figure", sorted((ROOT / "docs").rglob("*.svg")), ids=lambda path: path.stem)
def test_figures_are_whole_and_refer_to_nothing_outside(figure):
    root = ElementTree.parse(figure).getroot()
    assert root.get("viewBox")
    values = [value for element in root.iter() for value in element.attrib.values()]
    assert not [value for value in values if "://" in value]
