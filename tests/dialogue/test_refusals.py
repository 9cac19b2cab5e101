"""What is turned down by its kind."""

import pytest

from reges_index.catalog import Item
from reges_index.dialogue.refusals import is_refused, only_refuses, refused_kinds
from tests.builders import chat

SOUP = Item(id="1", title="Mushroom Soup", genres=["soup", "caffeine-free"], creators=["Ana Lima"])


@pytest.mark.parametrize(
    "said",
    [
        "quick dinner, no mushrooms",
        "I hate mushrooms",
        "nothing with cream or mushrooms, please",
        "no more Lima",
    ],
)
def test_a_kind_that_is_turned_down(said):
    assert is_refused(SOUP, refused_kinds(chat(said)))


@pytest.mark.parametrize(
    "said",
    ["I have no soup left", "no caffeine", "no heavy soup", "not a problem", "soup, but I do not like cream"],
)
def test_what_turns_down_less_than_it_seems(said):
    assert not is_refused(SOUP, refused_kinds(chat(said)))


def test_who_asks_for_it_later_gets_it():
    assert not is_refused(SOUP, refused_kinds(chat("no soup", "Pasta", "ok, a soup then")))


@pytest.mark.parametrize("said", ["no soup, please", "not an orchid", "Hmm, nothing too sad", "I hate war"])
def test_a_message_that_only_refuses(said):
    assert only_refuses(said)


@pytest.mark.parametrize("said", ["a soup", "no dairy, I am vegan", "No, but I like soup", "ok", "not sure"])
def test_a_message_that_says_more(said):
    assert not only_refuses(said)


def test_a_matter_of_degree_bars_no_kind():
    assert refused_kinds(chat("nothing too long")) == []
