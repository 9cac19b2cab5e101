from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reges_index.catalog import Item, demo_catalog, read_items
from reges_index.catalog.demo import DEMOS, demo_dialogues, demo_domain
from reges_index.errors import InputError


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_jsonl(tmp_path: Path):
    path = write(
        tmp_path,
        "a.jsonl",
        '\ufeff{"id": 1, "title": "Alien", "year": 1979, "genres": ["Horror"], "directors": "R. Scott; X", '
        '"abstract": null, "runtime": 117, "tags": ["a"], "empty": null, "metadata": {"extra": true}}\r\n'
        '\n{"id": "2", "title": "Emma", "year": null}\n',
    )
    assert read_items(path) == [
        Item(id="1", title="Alien", year=1979, genres=["Horror"], directors=["R. Scott", "X"],
             metadata={"extra": True, "runtime": 117, "tags": ["a"]}),
        Item(id="2", title="Emma"),
    ]  # fmt: skip


def test_csv_with_mapping(tmp_path: Path):
    path = write(
        tmp_path,
        "books.csv",
        "isbn,Name,Author,when,Kinds,num_pages,note\n"
        '978-1,"Emma, a novel",Jane Austen,1815,Novel|Comedy ;Romance,474,\n'
        '978-2,"Two\nlines",,,,,"said ""x"""\n',
    )
    columns = {"id": "isbn", "title": "Name", "authors": "Author", "year": "when", "genres": "Kinds",
               "metadata.pages": "num_pages"}  # fmt: skip
    one, two = read_items(path, columns=columns)
    assert one == Item(id="978-1", title="Emma, a novel", authors=["Jane Austen"], year=1815,
                       genres=["Novel", "Comedy", "Romance"], metadata={"pages": 474})  # fmt: skip
    assert (two.title, two.metadata, two.creators, two.year) == ("Two\nlines", {"note": 'said "x"'}, (), None)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip), min_size=1, max_size=4))
@settings(max_examples=50)
def test_any_text_survives_jsonl(tmp_path_factory, titles: list[str]):
    folder = tmp_path_factory.mktemp("t")
    items = [Item(id=str(n), title=title, abstract=title * 2) for n, title in enumerate(titles)]
    rows = [
        json.dumps({"id": i.id, "title": i.title, "abstract": i.abstract}, ensure_ascii=False) for i in items
    ]
    assert read_items(write(folder, "a.jsonl", "\n".join(rows))) == items


def test_raw_control_characters_and_long_cells(tmp_path: Path):
    strange = "\x01\x1b[31m \u202eשלום\u2028 👩‍🚀"
    path = write(tmp_path, "a.jsonl", '{"id": "1", "title": "x' + strange + '"}')
    assert read_items(path)[0].title == "x" + strange
    long = write(tmp_path, "a.csv", "id,title,abstract\n1,x," + "a" * 1_000_000 + "\n")
    assert len(read_items(long)[0].abstract) == 1_000_000


BAD_JSONL = [
    ('{"id": "1", "title": "x"}\n{"id": ', r"line 2: malformed JSON"),
    ('{"id": "1", "title": "x"}\n\n[1]', r"line 3: expected a JSON object, got list"),
    ("[" * 100_000, r"line 1: malformed JSON"),
    ('{"id": "1"}', r"line 1: the item has no title"),
    ('{"id": "1", "title": ""}', r"line 1: the item has no title"),
    ('{"id": "1", "title": "  "}', r"line 1: title: is blank"),
    ('{"title": "x"}', r"line 1: the item has no id"),
    ('{"id": "1", "title": "x"}\n{"id": "2", "title": "x"}\n{"id": "1", "title": "y"}',
     r"'1' occurs twice, on lines 1 and 3"),
    ('{"id": "1", "title": "x", "year": "soon"}', r"line 1: year: .*integer.*'soon'"),
    ('{"id": "1", "title": "x", "year": 1999.5}', r"line 1: year: .*integer"),
    ('{"id": "1", "title": "\\ud800"}', r"line 1: item: is not valid Unicode"),
    ("", "the catalog is empty"),
    ("\n \n", "the catalog is empty"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), BAD_JSONL)
def test_bad_jsonl_names_file_and_line(tmp_path: Path, content: str, message: str):
    path = write(tmp_path, "bad.jsonl", content)
    with pytest.raises(InputError, match=message) as caught:
        read_items(path)
    assert str(path) in str(caught.value)
    assert caught.value.hint


BAD_CSV = [
    ("id,label\n1,x\n", {}, r"line 1: no column 'title' \(for title\); columns are id, label"),
    ("id,title\n1,x\n", {"authors": "By"}, r"no column 'By' \(for authors\)"),
    ("id,title\n1,x\n2\n", {}, r"line 3: 1 cells, but the header has 2"),
    ("id,title\n1,x,y\n", {}, r"line 2: 3 cells"),
    ("id,title,id\n1,x,y\n", {}, r"column 'id' occurs twice"),
    ('id,title\n1,"x\ny"\n2,"open\n', {}, r"line 4: malformed CSV"),
    ("id,title,year\n1,x,1999\n2,y,then\n", {}, r"line 3: year: .*integer.*'then'"),
    ("id,title,full\n1,x,y\n", {"title": "full"}, r"column 'title' cannot become metadata"),
    ("id,title\n1,x\n", {"colour": "title"}, r"maps 'colour', which is no field"),
    ("id,title\n", {}, "the catalog is empty"),
    ("", {}, "the catalog is empty"),
]


@pytest.mark.parametrize(("content", "columns", "message"), BAD_CSV)
def test_bad_csv_names_file_and_line(tmp_path: Path, content: str, columns: dict[str, str], message: str):
    path = write(tmp_path, "bad.csv", content)
    with pytest.raises(InputError, match=message) as caught:
        read_items(path, columns=columns)
    assert str(path) in str(caught.value)


def test_encodings(tmp_path: Path):
    path = write(tmp_path, "a.csv", "id,title\n1,Amélie\n2,Où\n".encode("latin-1"))
    assert [item.title for item in read_items(path, encoding="latin-1")] == ["Amélie", "Où"]
    with pytest.raises(InputError, match=r"line 2: not utf-8"):
        read_items(path)
    with pytest.raises(InputError, match="unknown encoding 'klingon'"):
        read_items(path, encoding="klingon")
    wide = write(tmp_path, "b.jsonl", '{"id": "1", "title": "Amélie"}'.encode("utf-16"))
    assert read_items(wide, encoding="utf-16")[0].title == "Amélie"


def test_bad_paths(tmp_path: Path):
    with pytest.raises(InputError, match="no such file"):
        read_items(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match=r"unknown catalog format '\.txt'"):
        read_items(tmp_path / "a.txt")
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        read_items(tmp_path / "d.csv")


def test_demo_catalogs():
    assert len(demo_catalog("films")) >= 300
    assert len(demo_catalog("books")) >= 120
    assert len(demo_catalog("hikinggear")) == len(demo_catalog("recipes")) == 80
    with pytest.raises(InputError, match=r"no demo catalog 'cars'") as caught:
        demo_catalog("cars")
    assert "books, films, hikinggear, houseplants, recipes" in caught.value.hint
    assert demo_domain("hikinggear") == demo_domain("hikinggear-finland") == DEMOS["hikinggear"]
    assert demo_domain("film-thriller").noun == "movie"
    talked_of = {demo_domain(name).noun for name in demo_dialogues()}
    assert talked_of == {domain.noun for name, domain in DEMOS.items() if name != "houseplants"}
    assert len(demo_catalog("houseplants")) == 80  # this one has turns to train on, and no dialogue to show
