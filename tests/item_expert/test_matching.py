import pytest

from reges_index.item_expert.answers import match_answer

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
