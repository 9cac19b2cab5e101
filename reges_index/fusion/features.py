"""What the fusion weighs: one row an item, one column a feature, for one dialogue.

Features come from the encoder's vectors, from words (BM25), from titles, people and genres shared with what
was named, and from statistics of train dialogues.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from llama_index.core.base.llms.types import ChatMessage, MessageRole

from reges_index.catalog.item import Item
from reges_index.dialogue.render import search_text, searched_lines
from reges_index.dialogue.text import Text, phrase_key, phrase_words
from reges_index.dialogue.titles import Mention, TitleIndex
from reges_index.errors import InputError
from reges_index.fusion.statistics import BoundNeighbours, BoundStatistics, ItemStatistics, Neighbours
from reges_index.fusion.topic import TopicChange

Floats = npt.NDArray[np.floating[Any]]
SourceSwitch: TypeAlias = Collection[str]

SOURCES: dict[str, tuple[str, ...]] = {
    "encoder": ("dialogue", "dialogue_early", "last_message", "again_dialogue"),
    "words": ("bm25_share", "bm25_early"),
    "titles": ("title_shared",),
    "similar": ("people_shared", "genre_shared"),
    "people": ("people_named",),
    "popularity": ("recommended", "recent"),
    "together": ("together", "together_last"),
    "neighbours": ("recommended_nearby",),
    "mentions": ("is_named", "is_last", "named_by_user", "is_in_last_message", "named_long_ago"),
}
"""Sources that can be switched off, and the features that each one gives."""

FEATURES = tuple(name for names in SOURCES.values() for name in names)
"""Columns of the feature matrix, in order."""

# Likeness to what was said is 0 for items that the dialogue names: "something like Alien" is no wish for
# Alien, so it weighs differently there, and `again_dialogue` is what speaks for naming one again.
_ABOUT_OTHERS = tuple(
    name
    for source in ("encoder", "words", "titles", "similar", "people", "together", "neighbours")
    for name in SOURCES[source]
    if name != "again_dialogue"
)
_COLUMN = {name: column for column, name in enumerate(FEATURES)}
# How fast older mentions fade: each later message takes this share of the weight.
_FADE = 0.85
# A BM25 score from which words speak clearly; below it a shared word may be chance (finetune/FUSION.md).
_CLEAR_WORDS = 4.0
# "comedies", "comedic" and "comedy" share this much.
_STEM = 5


def dialogue_texts(messages: Sequence[ChatMessage]) -> tuple[str, str]:
    """Return the texts that are embedded: the dialogue, newest message first, and the user's newest message.

    See `reges_index.dialogue.render.search_text`. Where the user has said nothing, it is the newest of all.
    """
    lines = searched_lines(messages)
    by_user = [words for role, words in lines if role == MessageRole.USER]
    return search_text(messages), (by_user or [words for _, words in lines] or [""])[-1]


def check_sources(names: SourceSwitch) -> frozenset[str]:
    """Return the names as a set.

    Raises
    ------
    InputError
        If one is not among `SOURCES`.
    """
    for name in names:
        if name not in SOURCES:
            raise InputError(f"no source {name!r}", hint=f"sources are: {', '.join(SOURCES)}")
    return frozenset(names)


def columns_of(names: SourceSwitch) -> list[int]:
    """Return the columns of the features of these sources; errors as for `check_sources`."""
    return [_COLUMN[feature] for name in check_sources(names) for feature in SOURCES[name]]


@dataclass(frozen=True)
class QueryVectors:
    """Vectors of one dialogue by the catalog's encoder, unit length, each of shape (d,).

    Attributes
    ----------
    dialogue, last
        Of the two `dialogue_texts`.
    """

    dialogue: Floats
    last: Floats


class BM25:
    """BM25 (bm25s, Lucene's variant, English stop words) with scores for all documents.

    Parameters
    ----------
    texts
        N documents.
    words
        Splits documents and queries. By default words are folded like names, so that accents and case make no
        difference.
    """

    def __init__(self, texts: Sequence[str], words: Callable[[str], Sequence[str]] = phrase_words) -> None:
        import bm25s  # here, because it loads numba

        # It has set its own logger to DEBUG, past whatever the application has chosen.
        logging.getLogger("bm25s").setLevel(logging.WARNING)
        self._size = len(texts)
        self._words = words
        documents = [[w for w in words(text) if w not in _stop_words()] for text in texts]
        # bm25s cannot index documents without any word, such as a catalog of the one title "It".
        self._index = bm25s.BM25() if any(documents) else None
        if self._index is not None:
            self._index.index(documents, show_progress=False)

    def scores(self, text: str, *, without: Collection[str] = ()) -> Floats:
        """Return the score of each document, shape (N,); zeros where no word is shared.

        Parameters
        ----------
        without
            Words of the text that do not count, besides the stop words.
        """
        if self._index is None:
            return np.zeros(self._size, dtype=np.float32)
        left_out = _stop_words().union(without)
        known = [w for w in self._words(text) if w in self._index.vocab_dict and w not in left_out]
        if not known:
            return np.zeros(self._size, dtype=np.float32)
        return np.asarray(self._index.get_scores(known), dtype=np.float32)


@lru_cache(maxsize=1)
def _stop_words() -> frozenset[str]:
    from bm25s.stopwords import STOPWORDS_EN

    return frozenset(STOPWORDS_EN)


# What people ask with, whatever they ask for.
_ASKING = """
also any anyone anything bit could days else find fine get give go going gone good got great have hello help
hey hi idea im interested know lately let like likes lol looking lot love loved make maybe me mind mood much
my need needs never next nice okay one ones please pls possible rather really recommend recommendation
recommendations right see seen show some someone something stuff suggest suggestion suggestions sure tell
thank thanks thing things think today tonight try want wanted wants watch way well would yes you
"""


@lru_cache(maxsize=1)
def _asking_words() -> frozenset[str]:
    from bm25s.stopwords import STOPWORDS_EN_PLUS

    return frozenset((*STOPWORDS_EN_PLUS, *_ASKING.split()))


class Attributes:
    """An inverted index from attributes (people, genre stems, title words) to items.

    Parameters
    ----------
    rows
        The attributes of each of N items.
    """

    def __init__(self, rows: Sequence[Iterable[str]]) -> None:
        self.rows = [tuple(dict.fromkeys(row)) for row in rows]
        self._items: dict[str, list[int]] = defaultdict(list)
        for position, row in enumerate(self.rows):
            for name in row:
                self._items[name].append(position)
        size = max(1, len(self.rows))
        self._rarity = {name: float(np.log(1 + size / len(its))) for name, its in self._items.items()}

    def scores(self, weights: Iterable[tuple[str, float]]) -> Floats:
        """Return for each item the sum of the weights of its attributes, times their rarity; shape (N,)."""
        total = np.zeros(len(self.rows), dtype=np.float32)
        for name, weight in weights:
            found = self._items.get(name)
            if found is not None:
                total[found] += weight * self._rarity[name]
        return total


@dataclass(frozen=True)
class NamedItem:
    """An item that the dialogue names, over all its mentions.

    Attributes
    ----------
    item
        Its position in the catalog.
    last
        Number of the last message that names it.
    certainty
        1 where only this item can be meant, 1/n where n items share the title and no year tells.
    by_user
        Whether the user has named it.
    """

    item: int
    last: int
    certainty: float
    by_user: bool


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


class CatalogSources:
    """Everything that can be prepared for a catalog before a dialogue comes.

    Parameters
    ----------
    items
        N items, of any domain; whatever they lack (people, genres, statistics) counts for nothing.
    vectors
        Shape (N, d): their vectors, unit length.
    statistics, neighbours
        Of train dialogues.
    topic
        Tells when the newest message asks for something else than the dialogue before it; popularity then
        waits until the wish has been talked over. None, for the fit: there everything counts in full, since
        people name popular items whatever they are asked for, and weights would learn that of clear wishes.
    """

    def __init__(
        self,
        items: Sequence[Item],
        vectors: Floats,
        statistics: ItemStatistics,
        neighbours: Neighbours | None = None,
        topic: TopicChange | None = None,
    ) -> None:
        self.items = tuple(items)
        self.vectors = vectors
        self.titles = TitleIndex.of(items)
        # One word is no full name; stage names of one word are too often everyday words.
        self._names = frozenset(
            phrase_key(name) for i in items for name in (*i.creators, *i.cast) if " " in name.strip()
        )
        self._texts = BM25([item.text() for item in items])
        self._people = Attributes([[phrase_key(name) for name in (*i.creators, *i.cast)] for i in items])
        self._genres = Attributes(
            [[w[:_STEM] for genre in i.genres for w in phrase_words(genre)] for i in items]
        )
        self._title_words = Attributes(
            [[w for w in phrase_words(i.title) if w not in _stop_words() and not w.isdigit()] for i in items]
        )
        self._topic = topic
        self._bind(statistics, neighbours)

    def with_statistics(self, statistics: ItemStatistics, neighbours: Neighbours) -> CatalogSources:
        """Return the same catalog with other train dialogues; for fits on folds."""
        other = object.__new__(CatalogSources)
        other.__dict__.update(self.__dict__)
        other._bind(statistics, neighbours)
        return other

    def _bind(self, statistics: ItemStatistics, neighbours: Neighbours | None) -> None:
        self.statistics: BoundStatistics = statistics.bind(self.items)
        self._neighbours: BoundNeighbours | None = None if neighbours is None else neighbours.bind(self.items)
        # Half a catalog known is as good as all of it: rare items are unknown in the train sets too.
        share = min(1.0, 2 * self.statistics.known)
        counts = {"recommended": self.statistics.recommended, "recent": self.statistics.recent}
        # Around their mean, so that a catalog without statistics is one in which all items are average.
        self._static = {name: share * _centred(np.log1p(values)) for name, values in counts.items()}

    def read(self, messages: Sequence[ChatMessage]) -> DialogueState:
        """Return what a dialogue has named of the catalog after its last message."""
        users = [message.role == MessageRole.USER for message in messages]
        people: dict[str, int] = {}
        for number, message in enumerate(messages):
            people |= {hit.key: number for hit in Text(message.content or "").runs(self._names)}
        return DialogueState(len(messages), _named(self.titles.link(messages), users), people)

    def features(
        self, messages: Sequence[ChatMessage], vectors: QueryVectors, *, state: DialogueState | None = None
    ) -> Floats:
        """Return the matrix of shape (N, len(FEATURES)).

        Parameters
        ----------
        state
            Where it has been read already.
        """
        state = self.read(messages) if state is None else state
        dialogue = vectors.dialogue
        likeness, last = (_centred(self.vectors @ vector) for vector in (dialogue, vectors.last))
        new = 0.0
        if self._topic is not None and len(messages) > 1:
            new = self._topic.share(dialogue, vectors.last, likeness, last)
        if new:
            dialogue = (1 - new) * dialogue + new * vectors.last
            dialogue = dialogue / max(float(np.linalg.norm(dialogue)), 1e-9)
            likeness = _centred(self.vectors @ dialogue)
        # How many messages the wish has been talked over: 1 where it is new.
        heard = 1 + (len(messages) - 1) * (1 - new)
        vague = 1.0 if self._topic is None else 1 - 1 / heard**2
        found = {name: vague * values for name, values in self._static.items()}
        if self._neighbours is not None:
            found["recommended_nearby"] = vague * self._neighbours.scores(dialogue)
        found |= {"dialogue": likeness, "dialogue_early": likeness / heard, "last_message": last}
        self._words(found, messages, heard, newest_only=new > 0.5)
        self._wishes(found, state)
        if state.named:
            self._company(found, state, 1 - new)
        matrix = np.zeros((len(self.items), len(FEATURES)), dtype=np.float32)
        for name, values in found.items():
            matrix[:, _COLUMN[name]] = values
        if state.named:
            self._mentions(matrix, state)
        return matrix

    # -- the groups --------------------------------------------------------------------------------

    def _words(
        self, found: dict[str, Floats], messages: Sequence[ChatMessage], heard: float, *, newest_only: bool
    ) -> None:
        dialogue, last = dialogue_texts(messages)
        whole = self._texts.scores(dialogue)
        found["bm25_share"] = whole / max(float(whole.max(initial=0.0)), 1e-9)
        clear = self._texts.scores(last if newest_only else dialogue, without=_asking_words())
        # Of the best, where that is clear; a word of the wish that hardly any item has, such as "heist".
        found["bm25_early"] = clear / max(float(clear.max(initial=0.0)), _CLEAR_WORDS) / heard

    def _wishes(self, found: dict[str, Floats], state: DialogueState) -> None:
        end = state.messages - 1
        said = ((key, _FADE ** (end - number)) for key, number in state.people.items())
        found["people_named"] = self._people.scores(said) / 5

    def _company(self, found: dict[str, Floats], state: DialogueState, share: float) -> None:
        """Fill in what goes with the named items; ``share`` of it counts, less where the topic is new."""
        size = len(self.items)
        weights = np.array([_weight(item, state) for item in state.named], dtype=np.float32)
        total = max(float(weights.sum()), 1e-9)
        together, last = np.zeros(size, dtype=np.float32), np.zeros(size, dtype=np.float32)
        shared = {"people_shared": np.zeros(size, np.float32), "genre_shared": np.zeros(size, np.float32)}
        titles = np.zeros(size, dtype=np.float32)
        newest = state.named[0].last
        for item, weight in zip(state.named, weights.tolist(), strict=True):
            others, counts = self.statistics.together(item.item)
            # Cosine of the two items' dialogues, damped for items seen once or twice.
            alike = counts / np.sqrt(
                (self.statistics.named[item.item] + 2) * (self.statistics.named[others] + 2)
            )
            together[others] += weight * alike
            if item.last == newest:
                last[others] += item.certainty * alike
            for name, index in (("people_shared", self._people), ("genre_shared", self._genres)):
                shared[name] += weight / total * index.scores((k, 1.0) for k in index.rows[item.item]) / 5
            words = self._title_words.rows[item.item]
            likeness = self._title_words.scores((word, 1.0) for word in words)
            titles = np.maximum(titles, likeness / max(float(likeness[item.item]), 1e-9) * item.certainty)
        shared |= {"together": np.sqrt(together), "together_last": np.sqrt(last), "title_shared": titles}
        found.update({name: share * values for name, values in shared.items()})

    def _mentions(self, matrix: Floats, state: DialogueState) -> None:
        rows = [item.item for item in state.named]
        again = matrix[rows, _COLUMN["dialogue"]]
        matrix[np.array(rows)[:, None], [_COLUMN[name] for name in _ABOUT_OTHERS]] = 0
        matrix[rows, _COLUMN["again_dialogue"]] = again
        end, newest = state.messages - 1, state.named[0].last
        for named in state.named:
            values = {
                "is_named": 1.0,
                "is_last": float(named.last == newest),
                "named_by_user": float(named.by_user),
                "is_in_last_message": float(named.last == end),
                "named_long_ago": float(np.log1p(end - named.last)),
            }
            for name, value in values.items():
                matrix[named.item, _COLUMN[name]] = value * named.certainty


def _centred(values: Floats) -> Floats:
    """Return values around their mean, which says nothing about which item is the better one."""
    return values - values.mean() if len(values) else values


def _weight(named: NamedItem, state: DialogueState) -> float:
    return named.certainty * float(_FADE ** (state.messages - 1 - named.last))


def _named(mentions: Sequence[Mention], users: Sequence[bool]) -> tuple[NamedItem, ...]:
    """Return the items of some mentions, the most recently named first."""
    by_item: dict[int, list[Mention]] = defaultdict(list)
    for mention in mentions:
        for item in mention.items:
            by_item[item].append(mention)
    named = [
        NamedItem(
            item=item,
            last=max(mention.message for mention in its),
            certainty=max(1 / len(mention.items) for mention in its),
            by_user=any(users[mention.message] for mention in its),
        )
        for item, its in by_item.items()
    ]
    order = {(m.message, item): m.first for m in mentions for item in m.items}
    return tuple(sorted(named, key=lambda n: (-n.last, -order[n.last, n.item], n.item)))
