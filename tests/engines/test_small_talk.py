import pytest

from reges_index import read_turns
from reges_index.catalog.encoder import resolve_encoder
from reges_index.engines import SmallTalkDetector
from tests.builders import chat


@pytest.fixture(scope="module")
def detector():
    return SmallTalkDetector(resolve_encoder(None))


GREETINGS = """
hello | Hi! | hey | Good morning! | how are you? | Thanks! | Thank you so much | thx | bye | see you |
/help | /reset | Have a great day! | what's up? | who made you? | Are you a bot? | Great, thank you!
"""
WISHES = """
a comedy | something scary | another one | no | yes | seen it | Inception | funny | ok | sure |
I like Tom Hanks | hi, I want a thriller |
thanks, any others? | thanks, but I have seen it | I don't care | not that one |
Hello! can you suggest a movie? | hello, I love horror films
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


@pytest.mark.shared
@pytest.mark.parametrize("name", ["inspired", "redial"])
def test_real_turns_that_call_for_a_recommendation(detector, shared, name):
    """Some of the last messages before a recommendation are small talk indeed ("Hi!", "Thank you.")."""
    turns = read_turns(shared / "data" / name / "dev.jsonl")
    taken = [turn for turn in turns if detector(turn.chat[-1:])]
    assert len(taken) < 0.02 * len(turns)
