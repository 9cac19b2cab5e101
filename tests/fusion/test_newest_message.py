"""What the newest message weighs: refusals are no wishes, and a new topic takes the dialogue's place."""

import numpy as np
import pytest

from reges_index.catalog import Item
from reges_index.fusion import ItemStatistics
from reges_index.fusion.features import FEATURES, CatalogSources, QueryVectors, dialogue_texts
from reges_index.fusion.statistics import Observation
from reges_index.fusion.topic import SAME_TOPIC, TopicChange
from tests.builders import chat

ITEMS = [Item(id=str(number), title=title) for number, title in enumerate(("Elk", "Fen", "Gul", "Hob"))]
# Two kinds of items, and what is like none of them.
WESTERN, CARTOON, TALK = np.eye(3, dtype=np.float32)
# A message whose vector is like a cartoon's asks for something else; nothing else tells.
ASKS_FOR_CARTOONS = TopicChange(np.array([0, 9, 0, 0, 0, 0, 0, -4], dtype=np.float32))
SOURCES = CatalogSources(
    ITEMS,
    np.array([WESTERN, WESTERN, CARTOON, CARTOON]),
    ItemStatistics.count([]),
    topic=ASKS_FOR_CARTOONS,
)


def features(whole, last, *said):
    """The feature matrix, as a function of a feature's name."""
    vectors = QueryVectors(*(vector / np.linalg.norm(vector) for vector in (whole, last)))
    matrix = SOURCES.features(chat(*said), vectors)
    return lambda name: matrix[:, FEATURES.index(name)]


def test_a_new_topic_takes_the_place_of_the_dialogue_as_if_it_were_the_first_message():
    found = features(WESTERN + 0.2 * CARTOON, CARTOON, "a western", "what else?", "a cartoon")
    assert found("dialogue") == pytest.approx([-0.5, -0.5, 0.5, 0.5])
    assert found("dialogue_early") == pytest.approx(found("dialogue"))


@pytest.mark.parametrize("last", [WESTERN, WESTERN + 0.1 * CARTOON, TALK + 0.01 * CARTOON])
def test_more_of_the_same_topic_and_talk_leave_the_dialogue_as_it_is(last):
    found = features(WESTERN, last, "a western", "what else?", "more")
    assert found("dialogue") == pytest.approx([0.5, 0.5, -0.5, -0.5], abs=1e-3)
    assert found("dialogue_early") == pytest.approx(found("dialogue") / 3)


def test_what_goes_with_a_named_item_does_not_count_for_a_new_topic():
    said = "a western like Elk", "Fen", "a cartoon"
    named = [
        Item(id=str(n), title=title, genres=["western"]) for n, title in enumerate(("Elk", "Fen", "Gul"))
    ]
    sources = CatalogSources(
        named, np.array([WESTERN, WESTERN, CARTOON]), ItemStatistics.count([]), topic=ASKS_FOR_CARTOONS
    )
    column = FEATURES.index("genre_shared")
    same, other = (sources.features(chat(*said), QueryVectors(WESTERN, v)) for v in (WESTERN, CARTOON))
    assert same[2, column] > 0
    assert other[2, column] == 0


def test_a_rare_word_of_the_first_wish_speaks_for_the_items_that_have_it():
    items = [Item(id="1", title="Elk", abstract="Thieves plan a heist."), *ITEMS[1:]]
    sources = CatalogSources(items, np.eye(4, dtype=np.float32), ItemStatistics.count([]))
    vectors = QueryVectors(*np.full((2, 4), 0.5, dtype=np.float32))
    first = sources.features(chat("i'd like a heist movie"), vectors)[:, FEATURES.index("bm25_early")]
    later = sources.features(chat("i'd like a heist movie", "Fen", "why?"), vectors)
    assert first.argmax() == 0
    assert not first[1:].any()
    assert later[0, FEATURES.index("bm25_early")] == pytest.approx(first[0] / 3)


def test_what_most_people_like_says_nothing_of_a_first_wish_and_more_later():
    counted = ItemStatistics.count([Observation(named=(ITEMS[3],), recommended=(ITEMS[3],))])
    sources = CatalogSources(ITEMS, np.eye(4, dtype=np.float32), counted, topic=SAME_TOPIC)
    vectors = QueryVectors(*np.full((2, 4), 0.5, dtype=np.float32))
    column = FEATURES.index("recommended")
    first, later = (sources.features(chat(*said), vectors) for said in (["x"], ["x", "y", "z"]))
    assert not first[:, column].any()
    assert later[3, column] > later[0, column]


@pytest.mark.parametrize("refusal", ["no ghosts please", "Nothing too violent.", "not an orchid"])
def test_a_message_that_only_refuses_is_not_searched_with(refusal):
    assert dialogue_texts(chat("a western", "Elk", refusal)) == ("Elk\na western", "a western")


def test_where_nothing_else_was_said_a_refusal_is_searched_with():
    assert dialogue_texts(chat("no ghosts please")) == ("no ghosts please", "no ghosts please")


def test_without_a_word_of_the_user_the_newest_message_counts():
    assert dialogue_texts(chat("x", "Elk")[1:]) == ("Elk", "Elk")
    assert dialogue_texts([]) == ("", "")
