"""The dialogue as text, one line a message, cut from the oldest end to a token budget; and as a query bundle.

The bundle carries the dialogue through LlamaIndex; what is searched with and what is shown are such texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.schema import QueryBundle

from reges_index.dialogue.measure import TextMeasure, surely_longer
from reges_index.dialogue.messages import Dialogue, as_id, count_asides, said_in, to_messages
from reges_index.dialogue.refusals import only_refuses
from reges_index.dialogue.text import one_line
from reges_index.errors import InputError

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


def searched_lines(messages: Sequence[ChatMessage]) -> list[tuple[MessageRole, str]]:
    """Return role and words of the messages that are searched with, oldest first.

    Of a chat's own answer these are the item's title (`SEARCH_KEY`): the reason that stands behind it would
    be taken for a wish. Messages of the user that only turn something down would be, too, and are left out;
    where the user has said nothing else, they are all there is.
    """
    lines = [
        (message.role, words)
        for message in messages
        if (words := one_line(str(message.additional_kwargs.get(SEARCH_KEY, message.content or ""))))
    ]
    wishes = [line for line in lines if line[0] != MessageRole.USER or not only_refuses(line[1])]
    return wishes if any(role == MessageRole.USER for role, _ in wishes) else lines


def search_text(messages: Sequence[ChatMessage]) -> str:
    """Return a dialogue as a text to search with: the bare words of each message, newest message first.

    Encoders cut long texts at their end, so the newest wish comes first. Names of roles are left out, since
    an encoder takes "seeker" for a thing that is sought; see also `searched_lines`.
    """
    return "\n".join(words for _, words in reversed(searched_lines(messages)))


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


@dataclass
class DialogueQueryBundle(QueryBundle):
    """A query bundle with the chat messages that the query stands for.

    It goes through LlamaIndex's engines, postprocessors, synthesizers and events as it is. Before
    `ReGeSQueryTransform` the query string is the dialogue as text (the paper's *Original*), and what is
    embedded are its bare words, newest message first; after it both are the refined query, and the messages
    are still there.

    Attributes
    ----------
    messages
        The dialogue, oldest first.
    report
        What the components so far have to say about this query (messages cut, fall-backs, tokens).
    exclude_ids
        Items that must not be recommended, for engines and `ExcludeItems`.
    """

    messages: tuple[ChatMessage, ...] = ()
    report: dict[str, Any] = field(default_factory=dict)
    exclude_ids: tuple[str, ...] = ()

    @classmethod
    def from_dialogue(
        cls, dialogue: Dialogue | QueryBundle, *, exclude_ids: Iterable[str] = ()
    ) -> DialogueQueryBundle:
        """Make a bundle from a string, a `Turn` or a sequence of messages.

        To a query bundle with a dialogue the ids are added; another bundle counts as a message of the user.

        Raises
        ------
        InputError
            If the dialogue is empty, a message cannot be read, or ``exclude_ids`` are no ids.
        """
        barred = unique_ids(exclude_ids)
        if isinstance(dialogue, DialogueQueryBundle):
            known = [one for one in barred if one not in dialogue.exclude_ids]
            return replace(dialogue, exclude_ids=(*dialogue.exclude_ids, *known)) if known else dialogue
        said = dialogue.query_str if isinstance(dialogue, QueryBundle) else dialogue
        messages = to_messages(said)
        asides = count_asides(said)
        report = {"messages_of_others": asides} if asides else {}
        text = render_history(messages).text
        return cls(query_str=text, messages=messages, report=report, exclude_ids=tuple(barred))

    @property
    def embedding_strs(self) -> list[str]:
        """What is embedded: the refined queries, or else the dialogue's words, newest message first."""
        if self.custom_embedding_strs or not (words := search_text(self.messages)):
            return list(super().embedding_strs)
        return [words]

    def refined(self, queries: list[str], report: dict[str, Any]) -> DialogueQueryBundle:
        """Return a copy that searches with ``queries`` (their mean vector) instead of the dialogue."""
        return replace(
            self,
            query_str=queries[0],
            custom_embedding_strs=queries,
            embedding=None,  # else the vector of the unrefined text would be used
            report={**self.report, **report},
        )


def unique_ids(ids: Iterable[str]) -> list[str]:
    """Return ids as text, without repeats; a text, which is a sequence of letters, is refused."""
    if isinstance(ids, str):
        raise InputError(f"exclude_ids is the text {ids!r}", hint=f"give a list: [{ids!r}]")
    given = [as_id(one) for one in ids]
    for one in given:
        if not isinstance(one, str):
            raise InputError(f"exclude_ids holds {one!r}, which is no id", hint="ids are texts or integers")
    return list(dict.fromkeys(given))


def dialogue_of(bundle: QueryBundle) -> tuple[ChatMessage, ...]:
    """Return the dialogue behind a bundle; a plain bundle counts as one message of the user.

    Messages that neither seeker nor recommender said are left out, whoever has put them into the bundle.
    """
    if isinstance(bundle, DialogueQueryBundle) and (said := said_in(bundle.messages)):
        return said
    return (ChatMessage(role=MessageRole.USER, content=bundle.query_str),)
