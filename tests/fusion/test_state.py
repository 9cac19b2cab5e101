"""What a dialogue has established."""

import pytest
from llama_index.core.base.llms.types import ChatMessage, MessageRole

from reges_index.fusion.state import StateReader

from .films import FILMS

READER = StateReader(FILMS)


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
    assert not items["f6"].by_recommender
    assert (items["f6"].first, items["f6"].last, items["f6"].times) == (0, 2, 2)
    assert items["f6"].liked
    assert items["f1"].by_recommender
    assert items["f1"].certainty == 1


def test_an_answer_to_the_recommender_is_about_what_it_named():
    items = named(read("Hi", "How about Laugh Factory?", "No, I did not like that one"))
    assert items["f6"].rejected
    assert not items["f6"].liked
    assert named(read("Hi", "How about Laugh Factory?", "I have already seen that one"))["f6"].seen


@pytest.mark.parametrize(
    "said",
    [
        ("Is Laugh Factory any good?",),
        ("Hello! Have you seen Laugh Factory",),
        ("Hi", "How about Laugh Factory (2015)?", "What is it about?"),
        (
            "Hi",
            "have you heard of Laugh Factory",
            "No, who is in it?",
            "It is a comedy. Laugh Factory, right?",
        ),
        ("Laugh Factory!?",),
        ("Is Laugh Factory by Mr. Mann worth 7.5 of 10?",),
        ("heard of Laugh Factory",),
    ],
)
def test_an_item_that_is_only_asked_about(said):
    assert named(read(*said))["f6"].asked


@pytest.mark.parametrize(
    "said",
    [
        ("I loved Laugh Factory, do you know more like it?",),
        ("Hi", "How about Laugh Factory?", "I have already seen that one"),
        ("Is Laugh Factory any good? I watched the one with Laugh Factory in its name.",),
        ("Any comedies? I watch Laugh Factory. What about you?",),
        ("I have heard of Laugh Factory.",),
        ("The funniest film I have ever seen is Laugh Factory.",),
        ("Can you think of something like Laugh Factory?",),
    ],
)
def test_what_was_said_of_an_item_is_more_than_a_question(said):
    assert not named(read(*said))["f6"].asked


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ("Is Airplane! any good?", True),
        ("Is Airplane! (1980) worth it?", True),
        ("I watch What's Up, Doc? every year.", False),
    ],
)
def test_a_titles_own_punctuation_is_no_question(said, asked):
    films = [
        FILMS[0].model_copy(update={"id": title, "title": title, "year": 1980})
        for title in ("Airplane!", "What's Up, Doc?")
    ]
    (found,) = StateReader(films).read([ChatMessage(role=MessageRole.USER, content=said)]).named
    assert found.asked is asked


def test_a_rejection_stays_in_its_clause():
    items = named(read("I hated Laugh Factory, it was dull. But Harbour Lights (1994) is my favourite"))
    assert items["f6"].rejected
    assert items["f1"].liked
    assert not items["f1"].rejected


def test_items_that_share_a_title_share_the_certainty():
    assert {item.certainty for item in read("the winter door").named} == {0.5}


def test_genres_people_and_years():
    state = read("A comedy with Cy Moor from the 90s, but no horror", "Horror it is", "or from 2016")
    assert "comed" in state.genres
    assert "horro" in state.ruled_out
    assert "horro" not in state.genres  # the recommender's words are no wish
    assert state.people == {"cymoor": 0}
    assert state.years == ((1990, 1999), (2016, 2016))


@pytest.mark.parametrize(
    "said", ["I want a comedy", "we went to a comedy", "a different kind of comedy", "I spent it on comedy"]
)
def test_words_that_end_like_a_negation_rule_nothing_out(said):
    state = read(said)
    assert "comed" in state.genres
    assert not state.ruled_out


@pytest.mark.parametrize("said", ["I don't want a comedy", "isnt there anything but comedy", "never comedy"])
def test_negations_rule_out(said):
    assert "comed" in read(said).ruled_out


def test_what_was_said_last_holds():
    state = read("no horror please", "Sure", "horror, on second thought")
    assert "horro" in state.genres
    assert not state.ruled_out


@pytest.mark.parametrize(
    ("said", "years"),
    [
        ("something not from the 80s", ()),
        ("after 2010 please", ((2010, 9999),)),
        ("anything before the 90s", ((1, 1999),)),
        ("older than 1970", ((1, 1970),)),
    ],
)
def test_open_and_ruled_out_years(said, years):
    assert read(said).years == years


@pytest.mark.parametrize("answer", ["I haven't seen it", "never seen it", "I have not seen that"])
def test_not_seen_is_not_seen(answer):
    assert not named(read("Hi", "How about Laugh Factory?", answer))["f6"].seen


def test_short_genres_count():
    war = FILMS[0].model_copy(update={"genres": ("War",)})
    state = StateReader([war]).read([ChatMessage(role=MessageRole.USER, content="a war film")])
    assert "war" in state.genres


def test_an_empty_message_says_nothing():
    state = read("", "")
    assert state.messages == 2
    assert [*state.named, *state.genres, *state.people, *state.years] == []
