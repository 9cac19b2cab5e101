"""The features that the fusion weighs: one row an item, one column a feature, for one dialogue."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from llama_index.core.base.llms.types import ChatMessage

from reges_index.catalog.item import Item
from reges_index.dialogue.render import search_text, searched_words
from reges_index.errors import InputError
from reges_index.fusion.lexical import BM25, Attributes, item_attributes
from reges_index.fusion.neighbours import BoundNeighbours, Neighbours
from reges_index.fusion.state import DialogueState, NamedItem, StateReader
from reges_index.fusion.statistics import BoundStatistics, ItemStatistics

__all__ = [
    "FEATURES",
    "SOURCES",
    "CatalogSources",
    "QueryVectors",
    "SourceSwitch",
    "check_sources",
    "columns_of",
    "dialogue_texts",
]

Floats = npt.NDArray[np.floating[Any]]
SourceSwitch: TypeAlias = Collection[str]

SOURCES: dict[str, tuple[str, ...]] = {
    "encoder": ("dialogue", "last_message", "again_dialogue"),
    "words": ("bm25_share", "bm25_last"),
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


def dialogue_texts(messages: Sequence[ChatMessage]) -> tuple[str, str]:
    """Return the texts that are embedded: the dialogue, newest message first, and its last message.

    See `reges_index.dialogue.render.search_text`.
    """
    lines = [words for message in messages if (words := searched_words(message))]
    return search_text(messages), lines[-1] if lines else ""


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
    """

    def __init__(
        self,
        items: Sequence[Item],
        vectors: Floats,
        statistics: ItemStatistics,
        neighbours: Neighbours | None = None,
    ) -> None:
        self.items = tuple(items)
        self.vectors = vectors
        self.reader = StateReader(items)
        self._texts = BM25([item.text() for item in items])
        attributes = item_attributes(items)
        self._people: Attributes = attributes["people"]
        self._genres: Attributes = attributes["genres"]
        self._title_words: Attributes = attributes["titles"]
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

    def features(
        self, messages: Sequence[ChatMessage], vectors: QueryVectors, *, state: DialogueState | None = None
    ) -> Floats:
        """Return the matrix of shape (N, len(FEATURES)).

        Parameters
        ----------
        state
            Where it has been read already.
        """
        state = self.reader.read(messages) if state is None else state
        found: dict[str, Floats] = dict(self._static)
        found["dialogue"] = _centred(self.vectors @ vectors.dialogue)
        found["last_message"] = _centred(self.vectors @ vectors.last)
        if self._neighbours is not None:
            found["recommended_nearby"] = self._neighbours.scores(vectors.dialogue)
        self._words(found, messages)
        self._wishes(found, state)
        if state.named:
            self._company(found, state)
        matrix = np.zeros((len(self.items), len(FEATURES)), dtype=np.float32)
        for name, values in found.items():
            matrix[:, _COLUMN[name]] = values
        if state.named:
            self._mentions(matrix, state)
        return matrix

    # -- the groups --------------------------------------------------------------------------------

    def _words(self, found: dict[str, Floats], messages: Sequence[ChatMessage]) -> None:
        dialogue, last = dialogue_texts(messages)
        whole = self._texts.scores(dialogue)
        found["bm25_share"] = whole / max(float(whole.max(initial=0.0)), 1e-9)
        found["bm25_last"] = np.log1p(self._texts.scores(last))

    def _wishes(self, found: dict[str, Floats], state: DialogueState) -> None:
        end = state.messages - 1
        said = ((key, _FADE ** (end - number)) for key, number in state.people.items())
        found["people_named"] = self._people.scores(said) / 5

    def _company(self, found: dict[str, Floats], state: DialogueState) -> None:
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
        found["together"], found["together_last"] = np.sqrt(together), np.sqrt(last)
        found["title_shared"] = titles
        found.update(shared)

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
