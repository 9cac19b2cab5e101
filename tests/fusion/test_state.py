"""What a dialogue has named."""

import numpy as np
from llama_index.core.base.llms.types import ChatMessage, MessageRole

from reges_index.fusion import ItemStatistics
from reges_index.fusion.features import CatalogSources

from .films import FILMS


def sources(items):
    return CatalogSources(items, np.zeros((len(items), 2), np.float32), ItemStatistics.count([]))


READER = sources(FILMS)


def read(*said):
    roles = (MessageRole.USER, MessageRole.ASSISTANT)
    return READER.read([ChatMessage(role=roles[n % 2], content=text) for n, text in enumerate(said)])


def named(state):
    return {FILMS[item.item].id: item for item in state.named}


def test_who_named_what_and_when():
    state = read("I loved Laugh Factory", "Then Harbour Lights (1994)?", "Laugh Factory again")
    items = named(state)
    assert [FILMS[item.item].id for item in state.named] == ["f6", "f1"]
    assert items["f6"].by_user
    assert items["f6"].last == 2
    assert not items["f1"].by_user
    assert items["f1"].certainty == 1


def test_items_of_one_title_are_told_apart_by_the_year_only():
    assert named(read("The Winter Door"))["f4"].certainty == 0.5
    assert set(named(read("The Winter Door (1971)"))) == {"f5"}


def test_people_of_the_catalog_are_read_with_their_message():
    assert list(read("something with Fay Lind", "Sure", "or horror").people.values()) == [0]


def test_a_catalog_without_people_reads_nothing_there():
    bare = sources([item.model_copy(update={"makers": {}, "cast": ()}) for item in FILMS])
    assert not bare.read([ChatMessage(role=MessageRole.USER, content="a comedy by Ana Vell")]).people
