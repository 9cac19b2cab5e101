"""The dialogue as text: one line a message, cut from the oldest end to a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llama_index.core.base.llms.types import ChatMessage, MessageRole

from reges_index.dialogue.measure import TextMeasure, surely_longer
from reges_index.dialogue.text import one_line

__all__ = [
    "HISTORY_FORMAT",
    "SEARCH_KEY",
    "RenderedHistory",
    "newest_text",
    "render_history",
    "role_name",
    "search_text",
    "searched_words",
]

# Part of every prompt hash: change it whenever the text below changes.
HISTORY_FORMAT = "history-v1"

SEARCH_KEY = "search_text"
"""In a message's ``additional_kwargs``: what of it is searched with, in place of its content."""

# The paper's words for the two sides (section 2.3, prompt templates of section 3.3).
_ROLE_NAMES = {MessageRole.USER: "seeker", MessageRole.ASSISTANT: "recommender"}


@dataclass(frozen=True)
class RenderedHistory:
    """A dialogue as text, and what of it did not fit.

    Attributes
    ----------
    text
        One line a message, ``seeker: ...`` or ``recommender: ...``, oldest first.
    tokens
        Tokens of ``text``, by the measure it was rendered with; 0 when no budget was given.
    kept, dropped
        Messages kept, and messages cut whole from the oldest end.
    shortened
        Whether the oldest kept message lost its beginning (only when even one message was too long).
    """

    text: str
    tokens: int
    kept: int
    dropped: int
    shortened: bool = False


def role_name(role: MessageRole) -> str:
    """Return the paper's name for a role: seeker or recommender."""
    return _ROLE_NAMES.get(role, str(role.value))


def _line(message: ChatMessage) -> str:
    return f"{role_name(message.role)}: {one_line(message.content or '')}"


def newest_text(dialogue: Sequence[ChatMessage], count: int) -> str:
    """Return the newest ``count`` messages as one line of bare words, empty for a count of 0."""
    return " ".join(one_line(m.content or "") for m in dialogue[-count:]) if count else ""


def searched_words(message: ChatMessage) -> str:
    """Return the words of a message that are searched with, on one line.

    Of a chat's own answer these are the item's title (`SEARCH_KEY`): the reason that stands behind it would
    be taken for a wish.
    """
    return one_line(str(message.additional_kwargs.get(SEARCH_KEY, message.content or "")))


def search_text(messages: Sequence[ChatMessage]) -> str:
    """Return a dialogue as a text to search with: the bare words of each message, newest message first.

    Encoders cut long texts at their end, so the newest wish comes first. Names of roles are left out, since
    an encoder takes "seeker" for a thing that is sought.
    """
    return "\n".join(words for message in reversed(messages) if (words := searched_words(message)))


def render_history(
    messages: Sequence[ChatMessage], *, budget: int | None = None, measure: TextMeasure | None = None
) -> RenderedHistory:
    """Render a dialogue, keeping its end.

    Parameters
    ----------
    messages
        Oldest first.
    budget
        Most tokens the text may have; None keeps everything. Whole messages go first, from the oldest;
        when even the newest alone is too long, its end stays.
    measure
        Needed with a budget.

    Raises
    ------
    ValueError
        If a budget is given without a measure, or is not positive.
    """
    if budget is None:
        return RenderedHistory("\n".join(map(_line, messages)), 0, len(messages), 0)
    if measure is None or budget <= 0:
        raise ValueError(f"a budget of {budget} tokens needs to be positive and come with a measure")
    lines: list[str] = []
    tokens = 0
    shortened = False
    for message in reversed(messages):  # stops at the budget: old messages are not even looked at
        line = _line(message)
        cost = budget + 1 if surely_longer(line, budget) else measure.count(line + "\n")
        if tokens + cost > budget:
            if lines:
                break
            prefix = f"{role_name(message.role)}: "
            room = max(1, budget - measure.count(prefix) - 1)
            line = prefix + measure.tail(line[len(prefix) :], room).lstrip()
            cost, shortened = measure.count(line), True
        lines.append(line)
        tokens += cost
        if shortened:
            break
    return RenderedHistory(
        "\n".join(reversed(lines)), tokens, len(lines), len(messages) - len(lines), shortened
    )
