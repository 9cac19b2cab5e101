"""The filter for queries that give the answer away."""

import json
from pathlib import Path

import pytest

from reges_index.training.pseudo_queries import TitleLeaks

from .films import items, turn

LEAKS = TitleLeaks(items())
SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize(
    ("target", "query", "leaks"),
    [
        ("f0", "a dusty western like Dust over Carmel", True),
        ("f0", "a dusty western like DUST OVER CARMEL!", True),
        ("f0", "a western with dust over a town", False),
        ("f0", "Dust over Carmelita, a western", False),  # word borders
        ("f2", "drama such as Glass Orchard", True),  # without its article
        ("f6", "thriller nachtzug nach koln", True),  # without accents
        ("f9", "family film Lilo and the Whale", True),  # & is and
        ("f3", "science fiction in the Star Harbour series", True),  # the part before the colon
        ("f3", "a harbour with a star", False),
        ("f1", "an animated film that cheers you up", False),
        ("f1", "animated film like Up with balloons", True),
        ("f1", 'animated film like "up"', True),
        ("f1", "Up-beat film", False),  # the first word of a sentence is capital anyway
        ("f1", "Up (2009), animated", True),
        ("f5", "war film with 300 warriors", False),
        ("f5", "war film 300 (2006)", True),
        ("f5", "war film “300”", True),
    ],
)
def test_what_gives_a_title_away(target, query, leaks):
    assert bool(LEAKS.find(query, turn("t", "something good please", targets=(target,)))) is leaks


def test_a_title_that_the_dialogue_holds_is_no_leak():
    said = turn("t", "is dust over carmel any good?", targets=("f0",))
    assert LEAKS.find("western like Dust over Carmel", said) == ()
    sequel = turn("t", "I loved Star Harbour", targets=("f3",))
    assert LEAKS.find("more of Star Harbour", sequel) == ()
    assert LEAKS.find("Star Harbour: The Long Night", sequel) == ("Star Harbour: The Long Night",)


def test_a_plain_word_in_the_dialogue_counts_as_mention_only_where_nobody_labelled_mentions():
    query = "animated film like Up"
    assert LEAKS.find(query, turn("t", "what's up?", targets=("f1",), mentioned=())) == ("Up",)
    assert LEAKS.find(query, turn("t", "what's up?", targets=("f1",), mentioned=("f1",))) == ()
    assert LEAKS.find(query, turn("t", "have you seen up", targets=("f1",))) == ()


def test_all_targets_are_looked_for_and_unknown_ones_passed_over():
    said = turn("t", "hello", targets=("nowhere", "f0", "f8"))
    assert LEAKS.find("Heat Wave Hotel or Dust over Carmel", said) == ("Dust over Carmel", "Heat Wave Hotel")


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is not here")
@pytest.mark.parametrize(("corpus", "found"), [("inspired", 12), ("redial", 9)])
def test_on_the_shared_pseudo_queries(corpus, found):
    """Read one by one: all 21 name a target, or its series, that nobody had named; the others stay."""
    from reges_index.catalog import read_items
    from reges_index.dialogue import read_turns

    catalog = {item.id: item for item in read_items(SHARED / corpus / "catalog.jsonl")}
    turns = {t.id: t for t in read_turns(SHARED / corpus / "train.jsonl")}
    rows = map(json.loads, (SHARED / corpus / "pseudo_queries.jsonl").read_text("utf-8").splitlines())
    leaks = TitleLeaks(catalog)
    assert sum(bool(leaks.find(row["query"], turns[row["id"]])) for row in rows) == found
