"""The demo data that ships with the package is what its users see first: it must hold what it promises."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import reges_index

DEMO = Path(reges_index.__file__).parent / "catalog" / "demo"
DIALOGUES = sorted((DEMO / "dialogues").glob("*.json"))
Row = dict[str, Any]


def read(name: str) -> list[Row]:
    """Rows of one JSONL file of the demo folder."""
    return [json.loads(line) for line in (DEMO / name).read_text(encoding="utf-8").splitlines()]


def names(title: str, text: str) -> bool:
    """Whether the text holds the title as whole words, in any case."""
    return re.search(rf"(?<!\w){re.escape(title)}(?!\w)", text, re.IGNORECASE) is not None


def text_of(row: Row) -> str:
    return "\n".join(message["content"] for message in row["messages"])


@pytest.fixture(scope="module")
def titles() -> dict[str, str]:
    return {row["id"]: row["title"] for row in read("books.jsonl")}


CATALOGS = pytest.mark.parametrize(
    ("name", "people", "least"), [("films.jsonl", "directors", 310), ("books.jsonl", "authors", 130)]
)


@CATALOGS
def test_catalog_is_large_enough_and_has_no_duplicate(name: str, people: str, least: int) -> None:
    rows = read(name)
    assert len(rows) >= least
    assert len({row["id"] for row in rows}) == len(rows)
    pairs = Counter((row["title"].casefold(), row["year"]) for row in rows)
    assert [pair for pair, count in pairs.items() if count > 1] == []


@CATALOGS
def test_every_row_is_complete(name: str, people: str, least: int) -> None:
    for row in read(name):
        assert row["title"] == row["title"].strip() != "", row["id"]
        assert type(row["year"]) is int, row["id"]
        assert 0 < row["year"] < 2030, row["id"]
        for field in ("genres", people, *(["cast"] if people == "directors" else [])):
            assert row[field], row["id"]
            assert all(row[field]), row["id"]
            assert len(set(row[field])) == len(row[field]), row["id"]
        assert 25 <= len(row["abstract"].split()) <= 80, row["id"]


def test_films_hold_the_hard_cases_of_title_matching() -> None:
    """Remakes share a title, sequels start with the first film's title: examples and tests rely on both."""
    films = read("films.jsonl")
    years = {
        title: {f["year"] for f in films if f["title"] == title} for title in ("True Grit", "Dune", "Solaris")
    }
    assert years == {"True Grit": {1969, 2010}, "Dune": {1984, 2021}, "Solaris": {1972, 2002}}
    assert {"Alien", "Aliens", "Alien 3"} <= {film["title"] for film in films}


def test_turns_name_books_that_are_there_but_never_their_target(titles: dict[str, str]) -> None:
    turns = read("books_turns.jsonl")
    assert len({turn["id"] for turn in turns}) == len(turns) >= 45
    for turn in turns:
        assert turn["targets"], turn["id"]
        assert {*turn["targets"], *turn["mentioned"]} <= titles.keys(), turn["id"]
        assert not any(names(titles[item], text_of(turn)) for item in turn["targets"]), turn["id"]
        assert all(names(titles[item], text_of(turn)) for item in turn["mentioned"]), turn["id"]


@pytest.mark.parametrize("row", [*read("books_turns.jsonl")], ids=lambda row: row["id"])
def test_turn_messages_end_with_the_seeker(row: Row) -> None:
    assert row["dialog_id"]
    check_messages(row["messages"])


def test_there_are_dialogues_for_both_domains() -> None:
    stems = [path.stem for path in DIALOGUES]
    assert sum(stem.startswith("film-") for stem in stems) >= 4
    assert sum(stem.startswith("books-") for stem in stems) >= 2


@pytest.mark.parametrize("path", DIALOGUES, ids=lambda path: path.stem)
def test_dialogue_is_well_formed(path: Path) -> None:
    dialogue = json.loads(path.read_text(encoding="utf-8"))
    assert dialogue["id"] == path.stem
    assert 3 <= len(dialogue["messages"]) <= 8
    check_messages(dialogue["messages"])


def check_messages(messages: list[dict[str, str]]) -> None:
    """Seeker and recommender take turns, nobody says nothing, and the seeker has the last word."""
    assert all(message["content"].strip() for message in messages)
    roles = [message["role"] for message in messages]
    assert roles[-1] == "user"
    assert all(role == ("user", "assistant")[i % 2] for i, role in enumerate(reversed(roles)))
