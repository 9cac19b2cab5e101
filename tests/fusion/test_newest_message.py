"""What the newest message weighs: refusals are no wishes, and a new topic takes the dialogue's place."""

import numpy as np
import pytest

from reges_index.catalog import Item
from reges_index.fusion import ItemStatistics
from reges_index.fusion.features import FEATURES, CatalogSources, QueryVectors, dialogue_texts
from tests.builders import chat

ITEMS = [Item(id=str(number), title=title) for number, title in enumerate(("Elk", "Fen", "Gul", "Hob"))]
# Two kinds of items, and what is like none of them.
WESTERN, CARTOON, TALK = np.eye(3, dtype=np.float32)
SOURCES = CatalogSources(
    ITEMS, np.array([WESTERN, WESTERN, CARTOON, CARTOON]), ItemStatistics.count([]), neighbours=None
)


def likeness(whole, last):
    """The items' likeness to the dialogue, around its mean."""
    vectors = QueryVectors(*(vector / np.linalg.norm(vector) for vector in (whole, last)))
    return SOURCES.features(chat("a", "b", "c"), vectors)[:, FEATURES.index("dialogue")]


def test_a_new_topic_takes_the_place_of_the_dialogue():
    assert likeness(WESTERN + 0.2 * CARTOON, CARTOON) == pytest.approx([-0.5, -0.5, 0.5, 0.5])


@pytest.mark.parametrize("last", [WESTERN, WESTERN + 0.1 * CARTOON, TALK + 0.01 * CARTOON])
def test_more_of_the_same_topic_and_talk_leave_the_dialogue_as_it_is(last):
    assert likeness(WESTERN, last) == pytest.approx([0.5, 0.5, -0.5, -0.5], abs=1e-3)


@pytest.mark.parametrize("refusal", ["no ghosts please", "Nothing too violent.", "not an orchid"])
def test_a_message_that_only_refuses_is_not_searched_with(refusal):
    assert dialogue_texts(chat("a western", "Elk", refusal)) == ("Elk\na western", "a western")


def test_where_nothing_else_was_said_a_refusal_is_searched_with():
    assert dialogue_texts(chat("no ghosts please")) == ("no ghosts please", "no ghosts please")


def test_without_a_word_of_the_user_the_newest_message_counts():
    assert dialogue_texts(chat("x", "Elk")[1:]) == ("Elk", "Elk")
    assert dialogue_texts([]) == ("", "")
