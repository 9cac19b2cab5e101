import pytest

from reges_index.item_expert.answers import match_answer, read_ranking

LABELS = ["Alien", "Aliens", "Heat (1995)", "Heat (1986)", "It", "It Follows", "Face/Off", "300: Rise", "🎬"]


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("Alien", "Alien"),
        ("  aliens!\nbecause", "Aliens"),
        ("Heat (1986)", "Heat (1986)"),
        ("I recommend Heat (1995), it is tense.", "Heat (1995)"),
        ("Heat", None),
        ("I recommend Heat.", None),
        ("Alien (1979)", "Alien"),
        ("1. Face Off", "Face/Off"),
        ("- It", "It"),
        ("You will like It Follows.", "It Follows"),
        ("300: Rise", "300: Rise"),
        ("🎬", "🎬"),
        ("Alien or Aliens", None),
        ("Alien, or Heat (1995)", None),
        ("Titanic", None),
        ("", None),
        (" \n…", None),
        ("\n\n**Alien**\n", "Alien"),
    ],
)
def test_match(answer, label):
    index = match_answer(answer, LABELS)
    assert (None if index is None else LABELS[index]) == label


def test_equal_labels_count_as_the_first():
    assert match_answer("The Fly", ["X", "The Fly", "The Fly"]) == 1
    assert match_answer("I say The Fly.", ["X", "The Fly", "The Fly"]) == 1


FILMS = ["Alien (1979)", "Heat (1995)", "Up (2009)"]


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("Anything but Heat, so Alien", "Alien (1979)"),
        ("Heat is out; Alien it is.", "Alien (1979)"),
        ("Heat doesn't fit. Alien does.", "Alien (1979)"),
        ("You should skip Heat and watch Alien.", "Alien (1979)"),
        ("No Heat, please.", None),
        ("Alien wouldn't work", None),
    ],
)
def test_a_name_that_is_turned_down_is_no_choice(answer, label):
    pick = match_answer(answer, FILMS)
    assert (None if pick is None else FILMS[pick]) == label


@pytest.mark.parametrize("answer", ['{"answer": 2}', "Candidate 2", "#2", "[2]", '{"candidate_number": "2"}'])
def test_a_candidate_named_by_its_number(answer):
    assert match_answer(answer, FILMS) == 1
    assert match_answer(answer.replace("2", "9"), FILMS) is None


@pytest.mark.parametrize(
    "answer",
    [
        *("Heat, Alien, Up", "The order is 2, 1, 3.", "#2 #1 #3", "<ranking>2, 1, 3</ranking>"),
        *("Rank 1: Heat\nRank 2: Alien\nRank 3: Up", '{"1": "Heat", "2": "Alien", "3": "Up"}'),
    ],
)
def test_rankings_as_models_write_them(answer):
    assert read_ranking(answer, FILMS).ranked == (1, 0, 2)
