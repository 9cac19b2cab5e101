"""The dialogue H (section 2.2): messages, turns, their text, and the bundle that carries them."""

from reges_index.dialogue.bundle import DialogueQueryBundle, dialogue_of
from reges_index.dialogue.measure import HFMeasure, TextMeasure, default_measure
from reges_index.dialogue.mentions import find_mentions
from reges_index.dialogue.messages import Dialogue, Message, Turn, read_conversation, read_turns, to_messages
from reges_index.dialogue.render import RenderedHistory, newest_text, render_history
from reges_index.dialogue.text import normalise, one_line

__all__ = [
    "Dialogue",
    "DialogueQueryBundle",
    "HFMeasure",
    "Message",
    "RenderedHistory",
    "TextMeasure",
    "Turn",
    "default_measure",
    "dialogue_of",
    "find_mentions",
    "newest_text",
    "normalise",
    "one_line",
    "read_conversation",
    "read_turns",
    "render_history",
    "to_messages",
]
