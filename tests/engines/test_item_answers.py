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
        ("how many pages?", "other"),
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
    ("asked", "answer"),
    [
        ("is it vegan?", "Gazpacho: vegan."),
        ("how long does it take?", "Gazpacho: Ready in ten minutes."),
        ("how much is it?", "Gazpacho: A pot costs 4 euros."),
    ],
)
def test_the_part_of_an_entry_that_was_asked_for(asked, answer):
    soup = Item(
        id="3", title="Gazpacho", genres=["soup", "vegan"],
        abstract="Ripe tomatoes, raw and chilled. Ready in ten minutes. A pot costs 4 euros.",
    )  # fmt: skip
    assert answer_from_entry("other", soup, chat("a cold soup", "Gazpacho", asked)) == answer


@pytest.mark.parametrize(
    ("told", "answer"),
    [
        ("Endures shade, safe for animals.", "Fern: Endures shade, safe for animals."),
        ("Harmless to cats.", "Fern: Harmless to cats."),
        ("Poisonous to pets.", "Fern: Poisonous to pets."),
        ("Turn weekly, pet-safe.", "Fern: Turn weekly, pet-safe."),
    ],
)
def test_an_entry_tells_in_other_words_whether_an_item_harms(told, answer):
    fern = Item(id="4", title="Fern", abstract=f"Feathery green. {told}")
    for asked in ("is it poisonous to cats?", "is it toxic?", "is that safe for my cat?"):
        assert answer_from_entry("other", fern, chat("a plant", "Fern", asked)) == answer


THRILLER = Item(
    id="3", title="Gone Girl", year=2014, genres=["thriller", "science fiction"], directors=["David Fincher"],
    cast=["Rosamund Pike"], abstract="A wife vanishes. A detective doubts her husband, not the songs.",
)  # fmt: skip


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("a horror film please", "You asked for a horror film: A crew answers a call."),
        ("I want Science-Fiction", "You mentioned Science Fiction: A crew answers a call."),
        ("my wife is a horror fan", "You mentioned Horror: A crew answers a call."),
        (
            "anything with Sigourney Weaver",
            "You named Sigourney Weaver, who is in it: A crew answers a call.",
        ),
        ("one by ridley scott", "You named Ridley Scott, who directed it: A crew answers a call."),
        (
            "something from the 70s",
            "You asked for something from the 70s, and this is from 1979: A crew answers a call.",
        ),
        ("where they are hunted aboard a ship", "Something comes aboard and hunts them."),
    ],
)
def test_one_reason_from_what_was_asked_and_the_entry(said, reason):
    assert with_reason(ALIEN, chat(said)) == f"Alien (1979). {reason}"


@pytest.mark.parametrize(
    "said",
    [
        "no horror, please",
        "nothing scary, horror or science fiction",
        "I don't want horror",
        "I don’t want horror",
        "I am tired of horror",
        "I just watched some horror",
        "not Sigourney Weaver again",
        "I'm in my 70s",
        "hm",
    ],
)
def test_what_is_turned_down_or_told_is_no_reason(said):
    assert with_reason(ALIEN, chat(said)) == "Alien (1979)"


def test_a_wish_is_quoted_as_it_was_said():
    reason = with_reason(THRILLER, chat("Hi! I'd like a really tense thriller for Friday night."))
    assert reason == "Gone Girl (2014). You asked for a really tense thriller: A wife vanishes."
    said = "Thrillers, with a detective"
    assert with_reason(THRILLER, chat(said)).startswith(
        "Gone Girl (2014). You mentioned thriller: A detective"
    )
    said = "I am after a slow, quiet thriller."
    assert "You asked for a slow, quiet thriller: " in with_reason(THRILLER, chat(said))
    said = "a film for the whole family"
    assert "You mentioned family." in with_reason(Item(id="5", title="Coco", genres=["family"]), chat(said))
    for said in ("a non-fiction book about science", "something with songs", "fantastic weekend!"):
        assert with_reason(THRILLER, chat(said)) == "Gone Girl (2014)"


def test_the_newest_message_gives_the_reason():
    assert "Science Fiction" in with_reason(ALIEN, chat("horror", "Heat", "now science fiction"))
    assert "Science Fiction" in with_reason(ALIEN, chat("horror or science fiction", "Heat", "no horror"))
    assert "a horror film" in with_reason(ALIEN, chat("a horror film", "Heat", "seen it"))
    assert with_reason(LAMP, chat("hm")) == "Nordlys Desk Lamp"
    bare = Item(id="4", title="Who?", genres=["jazz"])
    assert with_reason(bare, chat("jazz!")) == "Who? You mentioned jazz."
