import pytest

from reges_index import ItemCatalog, ReGeSChatEngine, demo_catalog, read_turns
from reges_index.catalog.encoder import resolve_encoder
from reges_index.engines.small_talk import SmallTalkDetector, accepts, is_known
from tests.builders import chat


@pytest.fixture(scope="module")
def detector():
    return SmallTalkDetector(resolve_encoder(None))


GREETINGS = """
hello | Hi! | hey | Good morning! | how are you? | Thanks! | Thank you so much | thx | bye | see you |
/help | /reset | Have a great day! | what's up? | who made you? | Are you a bot? | Great, thank you! |
yo | lol | cheers
"""
WISHES = """
a comedy | something scary | another one | no | yes | seen it | Inception | funny | ok | sure |
I like Tom Hanks | hi, I want a thriller |
great. and a western for tomorrow? | nice, now a dessert | thank you! now a soup | hello! a quick dinner? |
thanks, any others? | thanks, but I have seen it | I don't care | not that one |
Hello! can you suggest a movie? | hello, I love horror films |
warm | coffee for the morning | nice weather jacket | hello kitty backpack | a tent for a rainy day |
breakfast | quick breakfast | seasonal | alpine | a robot film | a thank you card | weather proof tent
"""


@pytest.mark.parametrize("text", [text.strip() for text in GREETINGS.split("|")])
def test_greetings_and_thanks(detector, text):
    assert detector(chat(text))


@pytest.mark.parametrize("text", [text.strip() for text in WISHES.split("|")])
def test_wishes(detector, text):
    assert not detector(chat(text))


def test_the_newest_message_of_the_user_decides(detector):
    assert detector(chat("a comedy", "Heat", "thanks!"))
    assert not detector(chat("hello", "hi", "a comedy"))
    assert not detector(chat("hello", "hi")[:0])
    assert not detector(chat("x", "thanks!", "y")[:2])  # the assistant's
    assert not detector(chat("hello " * 11))


@pytest.mark.parametrize(
    "text",
    [
        "Thanks, that's perfect!",
        "cool, I'll watch it",
        "ok",
        "ok great, bye",
        "ok, thanks a lot",
        "sounds good",
    ],
)
def test_a_recommendation_is_taken(text):
    assert accepts(text)


@pytest.mark.parametrize(
    "text", ["thanks, any others?", "great, but older", "no", "perfect for kids?", "seen it"]
)
def test_what_goes_on_is_not_taken_for_thanks(text):
    assert not accepts(text)


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("Seen it.", True),
        ("They have seen that one already.", True),
        ("no, not that one", True),
        ("We had that yesterday, sorry", True),
        ("Seen it. Funnier, please!", False),
        ("I have seen Alien", False),
        ("I own a tent", False),
    ],
)
def test_what_only_says_that_the_item_is_known_is_no_wish(text, known):
    assert is_known(text) is known


def test_a_chat_without_an_llm_thanks_and_greets_in_ready_sentences():
    session = ReGeSChatEngine.from_defaults(ItemCatalog.from_items(demo_catalog("hikinggear")))
    assert str(session.chat("Hello!")) == "Hello! What are you looking for?"
    title = session.chat("a light tent").sources[0].raw_output.item.title
    thanked = f"You are welcome. I hope that {title} is the right one."
    assert str(session.chat("Thanks, that's perfect!")) == thanked
    assert str(session.chat("bye")).startswith("Goodbye!")


@pytest.mark.shared
@pytest.mark.parametrize("name", ["inspired", "redial"])
def test_real_turns_that_call_for_a_recommendation(detector, shared, name):
    """Some of the last messages before a recommendation are small talk indeed ("Hi!", "Thank you.")."""
    turns = read_turns(shared / "data" / name / "dev.jsonl")
    taken = [turn for turn in turns if detector(turn.chat[-1:])]
    assert len(taken) < 0.02 * len(turns)
