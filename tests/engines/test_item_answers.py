"""What a chat says of an item: a reason from its own entry, and answers to questions about it."""

import pytest

from reges_index.catalog import Item
from reges_index.engines.item_answers import answer_from_entry, asks_about, with_reason
from tests.builders import chat

ALIEN = Item(
    id="1", title="Alien", year=1979, genres=["Horror", "Science Fiction"], directors=["Ridley Scott"],
    cast=["Sigourney Weaver"], abstract="A crew answers a call. Something comes aboard and hunts them.",
)  # fmt: skip
LAMP = Item(id="2", title="Nordlys Desk Lamp", abstract="A lamp of oak. It can be dimmed.")


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Who directed that?", "makers"),
        ("who made it", "makers"),
        ("who is it by?", "makers"),
        ("Who plays in it?", "cast"),
        ("who stars in Alien?", "cast"),
        ("when did it come out?", "year"),
        ("how old is that", "year"),
        ("what genre is it", "genres"),
        ("Why that one?", "why"),
        ("why did you pick it?", "why"),
        ("why?", "why"),
        ("what is it about?", "about"),
        ("tell me more", "about"),
        ("tell me about Alien", "about"),
        ("is it long?", "other"),
        ("Is Alien scary?", "other"),
        ("how long is it?", "other"),
        ("does it have subtitles", "other"),
    ],
)
def test_questions_about_what_was_recommended(message, kind):
    assert asks_about(message, ALIEN) == kind


@pytest.mark.parametrize(
    "message",
    [
        "something by the director who made Heat",
        "do you have another one?",
        "is there something like it?",
        "I have seen it",
        "a comedy",
        "what else do you have?",
        "who is that for? I want a gift",
        "recommend me something that is not scary",
        "no, something funny",
        "would you suggest a western?",
    ],
)
def test_wishes_are_no_questions(message):
    assert asks_about(message, ALIEN) is None


def test_answers_come_from_the_fields():
    said = chat("something scary in space", "Alien (1979)", "?")
    assert "Ridley Scott" in answer_from_entry("makers", ALIEN, said)
    assert "Sigourney Weaver" in answer_from_entry("cast", ALIEN, said)
    assert "1979" in answer_from_entry("year", ALIEN, said)
    assert "hunts them" in answer_from_entry("about", ALIEN, said)
    for question in ("makers", "cast", "year", "other"):  # the entry says none of it
        answer = answer_from_entry(question, LAMP, said)
        assert "does not say" in answer
        assert "can be dimmed" in answer


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("a horror film please", "Horror"),
        ("anything with Sigourney Weaver", "Sigourney Weaver"),
        ("something from the 70s", "1979"),
        ("where they are hunted aboard a ship", "Something comes aboard and hunts them."),
        ("no horror, please", "Horror, Science Fiction"),  # its genres: nothing is claimed to be asked for
    ],
)
def test_one_reason_from_what_was_asked_and_the_entry(said, reason):
    answer = with_reason(ALIEN, chat(said))
    assert answer.startswith("Alien (1979)")
    assert reason in answer
    assert ("asked" in answer) is (said != "no horror, please" and "aboard" not in said)


def test_the_newest_message_gives_the_reason():
    assert "Science Fiction" in with_reason(ALIEN, chat("horror", "Heat", "now science fiction"))
    assert with_reason(LAMP, chat("hm")) == "Nordlys Desk Lamp"
