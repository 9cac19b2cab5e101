"""The dialogue H (section 2.2): messages, turns, their text, and the bundle that carries them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reges_index.dialogue.measure import HFMeasure as HFMeasure
    from reges_index.dialogue.measure import TextMeasure as TextMeasure
    from reges_index.dialogue.measure import default_measure as default_measure
    from reges_index.dialogue.messages import Dialogue as Dialogue
    from reges_index.dialogue.messages import Message as Message
    from reges_index.dialogue.messages import Turn as Turn
    from reges_index.dialogue.messages import read_conversation as read_conversation
    from reges_index.dialogue.messages import read_turns as read_turns
    from reges_index.dialogue.messages import to_messages as to_messages
    from reges_index.dialogue.render import DialogueQueryBundle as DialogueQueryBundle
    from reges_index.dialogue.render import RenderedHistory as RenderedHistory
    from reges_index.dialogue.render import dialogue_of as dialogue_of
    from reges_index.dialogue.render import newest_text as newest_text
    from reges_index.dialogue.render import render_history as render_history
    from reges_index.dialogue.text import normalise as normalise
    from reges_index.dialogue.text import one_line as one_line
    from reges_index.dialogue.titles import Mention as Mention
    from reges_index.dialogue.titles import TitleIndex as TitleIndex
else:
    from reges_index._lazy import lazy_names

    __getattr__, __dir__, __all__ = lazy_names(__name__)
