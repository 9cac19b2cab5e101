"""`DialogueState`: what a dialogue has said about items, people, genres and years, read by simple cues."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from llama_index.core.base.llms.types import ChatMessage, MessageRole

from reges_index.catalog.item import Item
from reges_index.dialogue.text import Text, phrase_key, phrase_words
from reges_index.dialogue.titles import Mention, TitleIndex

__all__ = ["DialogueState", "NamedItem", "StateReader"]

_LIKED = re.compile(
    r"\b(lov(?:e|ed|ing)|lik(?:e|ed)|enjoy(?:ed)?|favou?rites?|"
    r"great|awesome|amazing|excellent|best|fan of)\b",
    re.IGNORECASE,
)
_REJECTED = re.compile(
    r"\b(hat(?:e|ed)|dislik(?:e|ed)|boring|terrible|awful|worst|nothing like|not like|"
    r"not (?:a )?(?:big )?fan|"
    r"(?:do|did|does|would|could|was|is)(?: not|n'?t) (?:really )?"
    r"(?:like|care|enjoy|love|want|into|interested|good)|"
    r"other than|rather than|instead of|except|besides|no more)\b",
    re.IGNORECASE,
)
_SEEN = re.compile(
    r"\b(?:(?:have|already|'ve|i) (?:already )?(?:seen|saw|watched|read|played)|"
    r"(?<!never )(?<!not )(?<!n't )(?<!nt )(?<!yet )seen (?:it|that|them|those|both))\b",
    re.IGNORECASE,
)
# What asks about an item without a question mark, which many leave out; the last ones only open a sentence.
_ASKS = re.compile(
    r"\b(?:have you|has anyone|did you|do you (?:know|like)|(?:you|anyone) (?:ever )?heard of|"
    r"(?:what|how) about|tell me (?:more )?about)\b|"
    r"^\W*(?:ever (?:seen|read|played|heard)|heard of)\b",
    re.IGNORECASE,
)
# "Something like Alien?" asks for others, not about Alien.
_LIKE_IT = re.compile(
    r"\b(?:similar to|something like|such as|along the lines of)\W*(?:the )?$", re.IGNORECASE
)
# No sentence ends behind "Mr." or inside "7.5".
_END = re.compile(r"(?<!\b[DJMS][rst])(?<!\bMrs)[.!?;]+(?!\d)", re.IGNORECASE)
_MARKS = ".!?;"
# Spelled out: "want", "went" and "different" end in "nt" too.
_NOT_VERB = r"(?:do|does|did|is|are|was|were|have|has|had|ca|wo|would|could|should|ai)n'?t"
_NEGATION = re.compile(
    rf"\b(?:no|not|{_NOT_VERB}|cannot|never|without|except|avoid|hate|dislike)\W+(?:\w+\W+){{0,3}}$",
    re.IGNORECASE,
)
_NO_SOONER = re.compile(r"\b(?:after|since|newer than|later than)\W+(?:the\W+)?$", re.IGNORECASE)
_NO_LATER = re.compile(r"\b(?:before|older than|earlier than|until|prior to)\W+(?:the\W+)?$", re.IGNORECASE)
_FIRST_YEAR, _LAST_YEAR = 1, 9999
_DECADE = re.compile(r"\b(?:(19|20)(\d)0|([2-9])0)'?\s?s\b", re.IGNORECASE)
_YEAR = re.compile(r"(?<![(\[\d])\b((?:19|20)\d\d)\b(?!\s*[)\]'s\d])")
_CLAUSE = re.compile(r"[.!?;]|\bbut\b", re.IGNORECASE)
# "comedies", "comedic" and "comedy" share this much.
_STEM = 5
# "War", "spy" and "sci" are genres; "fi" is none.
_SHORTEST = 3


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
    liked, rejected, seen
        What was said around it, or in the answer to it.
    asked
        Whether it was only asked about: each mention is in a question, by either side, and none of the
        three was recognised. What follows a user's own question in another sentence is not looked at.
    """

    item: int
    first: int
    last: int
    times: int
    certainty: float
    by_user: bool
    by_recommender: bool
    liked: bool
    rejected: bool
    seen: bool
    asked: bool


@dataclass(frozen=True)
class DialogueState:
    """What the dialogue has established so far.

    Attributes
    ----------
    messages
        How many there are.
    named
        Items, the most recently named first.
    people
        Name key of a creator or cast member to the number of the last message that names them.
    genres, ruled_out
        Genre stems that the user asked for, or turned down, to the number of the last such message.
    years
        Ranges of years that the user asked for, both ends included.
    """

    messages: int
    named: tuple[NamedItem, ...] = ()
    people: dict[str, int] = field(default_factory=dict)
    genres: dict[str, int] = field(default_factory=dict)
    ruled_out: dict[str, int] = field(default_factory=dict)
    years: tuple[tuple[int, int], ...] = ()


class StateReader:
    """Reads the state of a dialogue with the vocabulary of one catalog: its titles, people and genres.

    Parameters
    ----------
    items
        The catalog; positions in the state are positions here.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self.titles = TitleIndex.of(items)
        self._items = items
        # One word is no full name; stage names of one word are too often everyday words.
        names = {phrase_key(n) for item in items for n in (*item.creators, *item.cast) if " " in n.strip()}
        self._people = frozenset(names)
        stems = {genre_stem(word) for item in items for genre in item.genres for word in phrase_words(genre)}
        self._stems = frozenset(stem for stem in stems if len(stem) >= _SHORTEST)

    def read(self, messages: Sequence[ChatMessage]) -> DialogueState:
        """Return the state after the last message."""
        texts = [Text(message.content or "") for message in messages]
        users = [message.role == MessageRole.USER for message in messages]
        people: dict[str, int] = {}
        genres: dict[str, int] = {}
        ruled_out: dict[str, int] = {}
        years: list[tuple[int, int]] = []
        for number, (text, user) in enumerate(zip(texts, users, strict=True)):
            people |= {hit.key: number for hit in text.runs(self._people)}
            if user:
                self._wishes(text, number, genres, ruled_out, years)
        named = self._named(self.titles.link(messages), texts, users)
        return DialogueState(len(messages), named, people, genres, ruled_out, tuple(years))

    def _wishes(
        self,
        text: Text,
        number: int,
        genres: dict[str, int],
        ruled_out: dict[str, int],
        years: list[tuple[int, int]],
    ) -> None:
        for word, (start, _) in zip(text.words, text.spans, strict=True):
            stem = genre_stem(word)
            if stem in self._stems:
                turned_down = bool(_NEGATION.search(text.plain[:start]))
                # What was said last holds.
                (genres if turned_down else ruled_out).pop(stem, None)
                (ruled_out if turned_down else genres)[stem] = number
        for match in _DECADE.finditer(text.plain):
            start = int(f"19{match[3]}0" if match[3] else f"{match[1]}{match[2]}0")
            years.extend(_years_asked(text.plain[: match.start()], start, start + 9))
        for match in _YEAR.finditer(text.plain):
            years.extend(_years_asked(text.plain[: match.start()], int(match[1]), int(match[1])))

    def _named(
        self, mentions: Sequence[Mention], texts: Sequence[Text], users: Sequence[bool]
    ) -> tuple[NamedItem, ...]:
        by_item: dict[int, list[Mention]] = defaultdict(list)
        for mention in mentions:
            for item in mention.items:
                by_item[item].append(mention)
        named = []
        for item, its in by_item.items():
            near = [_around(texts, users, mention) for mention in its]
            numbers = {mention.message for mention in its}
            rejected = any(_REJECTED.search(words) for words in near)
            liked = not rejected and any(_LIKED.search(words) for words in near)
            seen = any(_SEEN.search(words) for words in near)
            title = self._items[item].title
            named.append(
                NamedItem(
                    item=item,
                    first=min(numbers),
                    last=max(numbers),
                    times=len(numbers),
                    certainty=max(1 / len(mention.items) for mention in its),
                    by_user=any(users[number] for number in numbers),
                    by_recommender=any(not users[number] for number in numbers),
                    liked=liked,
                    rejected=rejected,
                    seen=seen,
                    asked=not (liked or rejected or seen)
                    and all(_in_question(texts[mention.message], mention, title) for mention in its),
                )
            )
        order = {(m.message, item): m.first for m in mentions for item in m.items}
        return tuple(sorted(named, key=lambda n: (-n.last, -order[n.last, n.item], n.item)))


def _around(texts: Sequence[Text], users: Sequence[bool], mention: Mention) -> str:
    """Return what the user said about a mention: the clause around it, or the answer to it."""
    text = texts[mention.message]
    if users[mention.message]:
        before = _CLAUSE.split(text.plain[: text.spans[mention.first][0]])[-1]
        after = _CLAUSE.split(text.plain[text.spans[mention.last][1] :])[0]
        return f"{before} . {after}"
    if mention.message + 1 < len(texts) and users[mention.message + 1]:
        return texts[mention.message + 1].plain[:200]
    return ""


def _in_question(text: Text, mention: Mention, title: str) -> bool:
    """Return whether a mention of a title stands in a question, with or without its mark."""
    before = _END.split(text.plain[: text.spans[mention.first][0]])[-1]
    if _LIKE_IT.search(before):
        return False
    tail = title[len(title.rstrip(_MARKS)) :]  # "Airplane!" and "What's Up, Doc?" end no sentence
    end = _END.search(text.plain[text.spans[mention.last][1] :].removeprefix(tail))
    return bool(_ASKS.search(before)) or (end is not None and "?" in end[0])


def _years_asked(before: str, first: int, last: int) -> list[tuple[int, int]]:
    """Return the range of years that is asked for, by the words in front of it; none if it is ruled out."""
    if _NO_SOONER.search(before):
        return [(first, _LAST_YEAR)]
    if _NO_LATER.search(before):
        return [(_FIRST_YEAR, last)]
    return [] if _NEGATION.search(before) else [(first, last)]


def genre_stem(word: str) -> str:
    """Return what the forms of a genre's name share ("comedies", "comedy")."""
    return word[:_STEM]
