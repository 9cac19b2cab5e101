"""Which items a message names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.base.llms.types import ChatMessage, MessageRole

from reges_index.fusion.linker import EntityLinker
from reges_index.fusion.phrases import Text, phrase_key

from .films import FILMS

LINKER = EntityLinker(FILMS)


def link(*said):
    messages = [ChatMessage(role=MessageRole.USER, content=text) for text in said]
    return [{FILMS[i].id for i in mention.items} for mention in LINKER.link(messages)]


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("I liked harbour lights a lot", [{"f1"}]),
        ("HARBOUR LIGHTS 2 was better", [{"f2"}]),
        ("harbour lights two?", [{"f2"}]),
        ("Harbour-Lights and laugh factory", [{"f1"}, {"f6"}]),
        ("amelies garden", [{"f7"}]),
        ("The Winter Door (1971)", [{"f5"}]),
        ("The Winter Door 2012 please", [{"f4"}]),
        ("Winter Door (1972)", [{"f5"}]),  # a year off, the article left out
        ("the winter door", [{"f4", "f5"}]),
        ("Harbor Lights (1994)", [{"f1"}]),  # spelt another way, the year given
        ("The Winter Door (1950)", []),  # another film of that name
        ("I have seen Heat, and liked it", [{"f3"}]),
        ('have you watched "Heat"?', [{"f3"}]),
        ("heat (1995)", [{"f3"}]),
        ("it was the heat outside", []),
        ("Nothing of note", []),
        ("", []),
    ],
)
def test_titles_in_a_message(said, found):
    assert link(said) == found


def test_mentions_know_their_message_and_kind():
    messages = [
        ChatMessage(role=MessageRole.USER, content="Hello"),
        ChatMessage(
            role=MessageRole.ASSISTANT, content="Heat (1995), Harbor Lights (1994) or laugh factory?"
        ),
    ]
    mentions = LINKER.link(messages)
    assert [m.message for m in mentions] == [1, 1, 1]
    assert [m.kind for m in mentions] == ["dated", "typo", "title"]


def test_near_spellings_can_be_switched_off():
    messages = [ChatMessage(role=MessageRole.USER, content="Harbor Lights (1994)")]
    assert EntityLinker(FILMS, typos=False).link(messages) == []


@given(st.text(max_size=200))
def test_any_text_is_linked_without_an_error(text):
    for mention in LINKER.link([ChatMessage(role=MessageRole.USER, content=text)]):
        assert mention.items
        assert mention.first <= mention.last < len(Text(text).words)


@given(st.text(max_size=60))
def test_the_key_of_a_name_ignores_case_and_blanks(name):
    key = phrase_key(name)
    assert phrase_key(f"  {name.lower()} \n") == phrase_key(name.lower())
    assert " " not in key
