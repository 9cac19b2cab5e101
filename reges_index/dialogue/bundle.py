"""A LlamaIndex query bundle that carries the dialogue."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.schema import QueryBundle

from reges_index.dialogue.messages import Dialogue, as_id, count_asides, said_in, to_messages
from reges_index.dialogue.render import render_history, search_text
from reges_index.errors import InputError

__all__ = ["DialogueQueryBundle", "dialogue_of", "unique_ids"]


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
