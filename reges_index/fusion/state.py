"""`DialogueState`: which items and people of a catalog a dialogue has named, when and by whom."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from llama_index.core.base.llms.types import ChatMessage, MessageRole

from reges_index.catalog.item import Item
from reges_index.dialogue.text import Text, phrase_key
from reges_index.dialogue.titles import Mention, TitleIndex

__all__ = ["DialogueState", "NamedItem", "StateReader", "genre_stem"]

# "comedies", "comedic" and "comedy" share this much.
_STEM = 5


@dataclass(frozen=True)
class NamedItem:
    """An item that the dialogue names, over all its mentions.

    Attributes
    ----------
    item
        Its position in the catalog.
    first, last
        Numbers of the first and the last message that name it.
    times
        In how many messages.
    certainty
        1 where only this item can be meant, 1/n where n items share the title and no year tells.
    by_user, by_recommender
        Who named it.
    """

    item: int
    first: int
    last: int
    times: int
    certainty: float
    by_user: bool
    by_recommender: bool


@dataclass(frozen=True)
class DialogueState:
    """What the dialogue has named so far.

    What was said about an item (liked, turned down, seen) is not read: cue words are of one language, and the
    encoder's vectors hold what they told.

    Attributes
    ----------
    messages
        How many there are.
    named
        Items, the most recently named first.
    people
        Name key of a creator or cast member to the number of the last message that names them.
    """

    messages: int
    named: tuple[NamedItem, ...] = ()
    people: dict[str, int] = field(default_factory=dict)


class StateReader:
    """Reads the state of a dialogue with the vocabulary of one catalog: its titles and people.

    Parameters
    ----------
    items
        The catalog; positions in the state are positions here.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self.titles = TitleIndex.of(items)
        # One word is no full name; stage names of one word are too often everyday words.
        names = {phrase_key(n) for item in items for n in (*item.creators, *item.cast) if " " in n.strip()}
        self._people = frozenset(names)

    def read(self, messages: Sequence[ChatMessage]) -> DialogueState:
        """Return the state after the last message."""
        users = [message.role == MessageRole.USER for message in messages]
        people: dict[str, int] = {}
        for number, message in enumerate(messages):
            text = Text(message.content or "")
            people |= {hit.key: number for hit in text.runs(self._people)}
        return DialogueState(len(messages), _named(self.titles.link(messages), users), people)


def _named(mentions: Sequence[Mention], users: Sequence[bool]) -> tuple[NamedItem, ...]:
    by_item: dict[int, list[Mention]] = defaultdict(list)
    for mention in mentions:
        for item in mention.items:
            by_item[item].append(mention)
    named = []
    for item, its in by_item.items():
        numbers = {mention.message for mention in its}
        named.append(
            NamedItem(
                item=item,
                first=min(numbers),
                last=max(numbers),
                times=len(numbers),
                certainty=max(1 / len(mention.items) for mention in its),
                by_user=any(users[number] for number in numbers),
                by_recommender=any(not users[number] for number in numbers),
            )
        )
    order = {(m.message, item): m.first for m in mentions for item in m.items}
    return tuple(sorted(named, key=lambda n: (-n.last, -order[n.last, n.item], n.item)))


def genre_stem(word: str) -> str:
    """Return what the forms of a genre's name share ("comedies", "comedy")."""
    return word[:_STEM]
