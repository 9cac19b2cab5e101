import time

import pytest

from reges_index.dialogue import find_mentions
from tests.builders import chat


def named(text, *titles):
    pairs = [title if isinstance(title, tuple) else (title, None) for title in titles]
    texts = [text] if isinstance(text, str) else text
    found = find_mentions(chat(*texts), [title for title, _ in pairs], [year for _, year in pairs])
    return {pairs[index][0] if pairs[index][1] is None else pairs[index] for index in found}


@pytest.mark.parametrize(
    ("text", "title", "is_named"),
    [
        ("I loved the dark knight!", "The Dark Knight", True),
        ("The Dark Knight is great", "The Dark Knight", True),
        ("the knight was dark", "The Dark Knight", False),
        ("It is good. It was fun.", "It", False),
        ("have you seen It?", "It", True),
        ("I like it", "It", False),
        ('I mean "it", the clown film', "It", True),
        ("it (2017) please", "It", True),
        ("Heat 1995 was good", "Heat", True),
        ("The heat is on", "Heat", False),
        ("Heat is what I want", "Heat", False),
        ("I want warmth, Heat", "Heat", True),
        ("Inception!", "Inception", True),
        ("I never stand Up", "Up", True),
        ("it is NEVER UP", "Up", False),
        ("I saw Aliens", "Alien", False),
        ("I saw Airplane! yesterday", "Airplane!", True),
        ("I saw Airplane yesterday", "Airplane!", True),
        ("wall-e and face off", "Face/Off", True),
        ("we watched Amelie", "Amélie", True),
        ("mission impossible", "Mission: Impossible", True),
        ("(500) days of summer", "(500) Days of Summer", True),
        ("good, eXistenZ is", "eXistenZ", True),
        ("nothing here", "???", False),
    ],
)
def test_titles(text, title, is_named):
    assert (named(text, title) == {title}) is is_named


def test_a_longer_title_takes_the_words_of_a_shorter():
    assert named("I loved Toy Story 2", "Toy Story", "Toy Story 2") == {"Toy Story 2"}
    assert named("Toy Story 2, and also Toy Story", "Toy Story", "Toy Story 2") == {
        "Toy Story",
        "Toy Story 2",
    }
    assert named("I like It Follows", "It", "It Follows") == {"It Follows"}


def test_a_year_tells_remakes_apart():
    remakes = [("The Fly", 1958), ("The Fly", 1986)]
    assert named("I saw The Fly (1986)", *remakes) == {remakes[1]}
    assert named("I saw The Fly", *remakes) == set(remakes)
    assert named(["I saw The Fly (1958)", "and?", "The Fly ( 1986 ) too"], *remakes) == set(remakes)
    assert named("I saw The Fly (2030?)", *remakes) == set(remakes)
    assert named('"Heat" (1995)', ("Heat", 1986), ("Heat", 1995)) == {("Heat", 1995)}


def test_titles_do_not_reach_over_two_messages():
    assert named(["it was dark", "Knight?", "no"], "Dark Knight") == set()


def test_long_dialogues_with_many_titles_are_quick():
    titles = [f"Title Number {n}" for n in range(80)] + ["It", "Heat"]
    texts = ["I like Title Number 3 and Heat " * 1000] * 7
    start = time.process_time()
    found = find_mentions(chat(*texts), titles)
    assert time.process_time() - start < 3
    assert {titles[index] for index in found} == {"Title Number 3", "Heat"}
