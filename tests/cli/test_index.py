from __future__ import annotations

import csv
import time

import pytest

from reges_index.catalog import ItemCatalog
from tests.cli.conftest import FILMS, call, film_rows, reges, start, write_jsonl

pytestmark = pytest.mark.timeout(900)  # far from needed, unless the machine is busy


def counts(found):
    return {key: found.json[key] for key in ("items", "added", "changed", "removed", "unchanged")}


def test_only_what_changed_is_embedded(tmp_path):
    rows = film_rows()
    file, store = write_jsonl(tmp_path / "films.jsonl", rows), tmp_path / "store"
    words = ("index", file, "--store", store, "--name", "films", "--json")
    assert counts(call(*words)) == {"items": 12, "added": 12, "changed": 0, "removed": 0, "unchanged": 0}
    assert counts(call(*words)) == {"items": 12, "added": 0, "changed": 0, "removed": 0, "unchanged": 12}
    rows[0]["abstract"] = "Another abstract."
    write_jsonl(file, rows[:-1])
    assert counts(call(*words)) == {"items": 11, "added": 0, "changed": 1, "removed": 1, "unchanged": 10}
    assert ItemCatalog.open(store, name="films").get(["f01"])[0].abstract == "Another abstract."


def test_the_report_is_one_line_and_the_bar_can_be_turned_off(films, tmp_path):
    found = call("index", films, "--store", tmp_path / "store", "--quiet")
    assert found.code == 0
    assert found.out.count("\n") == 1
    assert "12 items in catalog 'items'" in found.out
    assert found.err == ""


def test_bars_go_to_standard_error_and_json_stays_alone(films, tmp_path):
    found = reges("index", films, "--store", tmp_path / "store", "--json")
    assert found.json["added"] == 12
    assert "100%" in found.err
    assert "Loading weights" not in found.err


def test_a_csv_with_other_column_names(tmp_path):
    file = tmp_path / "books.csv"
    with file.open("w", newline="", encoding="latin-1") as stream:
        writer = csv.writer(stream)
        writer.writerow(["ISBN", "Name", "Author", "Summary", "Pages"])
        writer.writerow(["1", "Nana", "Émile Zola", "Paris, and what it costs.", "480"])
        writer.writerow(["2", "Walden", "Thoreau", "", "350"])
    store = tmp_path / "store"
    pairs = ("id=ISBN", "title=Name", "authors=Author", "abstract=Summary", "metadata.pages=Pages")
    columns = [word for pair in pairs for word in ("--column", pair)]
    found = call("index", file, "--store", store, "--encoding", "latin-1", "--json", *columns)
    assert found.json["added"] == 2
    nana, walden = ItemCatalog.open(store).items()
    assert (nana.title, nana.creators, nana.creator_role) == ("Nana", ("Émile Zola",), "author")
    assert walden.abstract == ""
    call("index", file, "--store", store).fails(2, "not utf-8", "--encoding")
    guessed = call("index", file, "--store", store, "--encoding", "latin-1", "--json")
    assert "'ISBN' is taken for the id" in guessed.err
    call("index", file, "--store", store, "--encoding", "latin-1", "--delimiter", ";").fails(2, "--delimiter")


def test_the_demo_catalogs(tmp_path):
    found = call("index", "demo:books", "--store", tmp_path / "store", "--name", "books", "--json")
    assert found.json["added"] >= 120
    call("index", "demo:cars", "--store", tmp_path / "store").fails(2, "books, films, hikinggear")
    call("index", "demo:books", "--store", tmp_path / "s", "--column", "id=x").fails(2, "--column")


def test_a_killed_sync_is_said_and_the_next_one_finishes_it(films, tmp_path):
    store = tmp_path / "store"
    process = start("index", films, "--store", store)
    deadline = time.monotonic() + 840
    # Chroma's file is there before the encoder is loaded, so nothing can have been embedded yet.
    while not (store / "chroma.sqlite3").is_file():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    while not call("doctor", "--store", store).out.count("half-written"):
        assert process.poll() is None, "it finished before the kill"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    call("recommend", "--store", store, "--conversation", "demo:film-thriller").fails(3, "half-written")
    assert call("index", films, "--store", store, "--json").json["items"] == 12
    assert ItemCatalog.open(store).ids() == [film[0] for film in FILMS]


def test_bad_arguments(films, tmp_path):
    store = tmp_path / "store"
    call("index", tmp_path / "none.jsonl", "--store", store).fails(2, "none.jsonl", "no such file")
    call("index", tmp_path, "--store", store).fails(2, "unknown catalog format")
    call("index", films, "--store", store, "--encoding", "klingon").fails(2, "unknown encoding 'klingon'")
    call("index", films, "--store", store, "--column", "title").fails(2, "FIELD=COLUMN")
    call("index", films, "--store", store, "--column", "id=a", "--column", "id=b").fails(2, "'id' twice")
    call("index", films, "--store", store, "--column", "colour=x").fails(2, "'colour'")
    call("index", films, "--store", store, "--name", "a/b").fails(2, "'a/b'")
    call("index", films, "--store", " ").fails(2, "--store is empty")
    call("index", films, "--store", "http://:9").fails(2, "http://host:port")
    assert not store.exists()


def test_a_store_that_cannot_be_written(films, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder is wanted")
    call("index", films, "--store", blocked).fails(5, str(blocked))
    call("index", films, "--store", blocked / "store").fails(5, "file")
    call("index", films, "--store", "/proc/store").fails(5, "/proc/store")
    assert blocked.read_text() == "a file where a folder is wanted"


def test_a_bad_file_is_named_and_leaves_the_store_alone(tmp_path):
    file, store = tmp_path / "catalog.jsonl", tmp_path / "store"
    file.write_text('{"id": "1", "title": "A"}\n{"id": "2", \n')
    call("index", file, "--store", store).fails(2, "catalog.jsonl", "line 2", "malformed JSON")
    assert not store.exists()
