"""The features that the fusion weighs: one row an item, one column a source, for one dialogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_index.core.base.llms.types import ChatMessage

from reges_index.catalog.item import Item
from reges_index.dialogue import one_line
from reges_index.fusion.lexical import BM25, Attributes, item_attributes
from reges_index.fusion.state import DialogueState, NamedItem, StateReader
from reges_index.fusion.statistics import BoundStatistics, ItemStatistics

__all__ = ["ABOUT_OTHERS", "FEATURES", "CatalogSources", "QueryVectors", "dialogue_texts"]

Floats = npt.NDArray[np.floating[Any]]

FEATURES = (
    # cosines of the frozen encoder
    "dense_dialogue",
    "dense_last",
    "dense_query",
    "dense_named",
    "dense_named_best",
    # words
    "bm25_dialogue",
    "bm25_last",
    "bm25_share",
    "bm25_title",
    "bm25_title_last",
    # what was asked for
    "people_named",
    "people_shared",
    "genre_asked",
    "genre_ruled_out",
    "genre_shared",
    "title_shared",
    "year_asked",
    "year_gap",
    # the item alone
    "year",
    "abstract_length",
    "no_abstract",
    # train dialogues
    "recommended",
    "recent",
    "named",
    "recommended_title",
    "together",
    "together_last",
    # items that the dialogue has named already
    "is_named",
    "is_last",
    "is_in_last_message",
    "is_last_by_recommender",
    "is_last_by_user",
    "named_by_user",
    "named_by_recommender",
    "named_often",
    "named_long_ago",
    "is_liked",
    "is_rejected",
    "is_seen",
    "is_asked",
    # the trained query side
    "adapted",
    # the same of named items, which are like themselves: what speaks for naming one again
    "again_adapted",
    "again_dense_dialogue",
    "again_dense_last",
    "again_bm25_dialogue",
    "again_bm25_last",
    "again_people_named",
    "again_genre_shared",
)
"""Columns of the feature matrix, in order."""

ABOUT_OTHERS = (
    *(name for name in FEATURES if name.startswith(("dense_", "bm25_"))),
    *("people_named", "people_shared", "genre_asked", "genre_shared"),
    *("title_shared", "year_asked", "year_gap", "together", "together_last", "adapted"),
)
"""Likeness to what was said: 0 for items that the dialogue names; ``again_...`` keeps it for some of them.

"Something like Alien" is no wish for Alien, so likeness weighs differently there.
"""

_COLUMN = {name: column for column, name in enumerate(FEATURES)}
# How fast older mentions fade: each later message takes this share of the weight.
_FADE = 0.85
_YEAR_CENTRE, _YEAR_SCALE = 2000.0, 20.0


def dialogue_texts(messages: Sequence[ChatMessage]) -> tuple[str, str]:
    """Return the texts that are embedded: the dialogue, newest message first, and its last message.

    Encoders cut long texts at their end, so the newest message has to come first.
    """
    lines = [line for message in messages if (line := one_line(message.content or ""))]
    return "\n".join(reversed(lines)), lines[-1] if lines else ""


@dataclass(frozen=True)
class QueryVectors:
    """Vectors of one dialogue by the catalog's encoder, unit length, each of shape (d,).

    Attributes
    ----------
    dialogue, last
        Of the two `dialogue_texts`.
    query
        Of the refined query; None without one.
    tower
        Of the dialogue by the trained query tower; None without one.
    """

    dialogue: Floats
    last: Floats
    query: Floats | None = None
    tower: Floats | None = None


class CatalogSources:
    """Everything that can be prepared for a catalog before a dialogue comes.

    Parameters
    ----------
    items
        N items.
    vectors
        Shape (N, d): their vectors, unit length.
    statistics
        Of train dialogues.
    """

    def __init__(self, items: Sequence[Item], vectors: Floats, statistics: ItemStatistics) -> None:
        self.items = tuple(items)
        self.vectors = vectors
        self.reader = StateReader(items)
        self.statistics: BoundStatistics = statistics.bind(items)
        self._texts = BM25([item.text() for item in items])
        self._titles = BM25([item.title for item in items])
        attributes = item_attributes(items)
        self._people: Attributes = attributes["people"]
        self._genres: Attributes = attributes["genres"]
        self._title_words: Attributes = attributes["titles"]
        years = [float("nan") if item.year is None else float(item.year) for item in items]
        self._years: Floats = np.array(years, dtype=np.float32)
        self._static = self._item_features()

    def with_statistics(self, statistics: ItemStatistics) -> CatalogSources:
        """Return the same catalog with other statistics; for fits on folds."""
        other = object.__new__(CatalogSources)
        other.__dict__.update(self.__dict__)
        other.statistics = statistics.bind(self.items)
        other._static = other._item_features()
        return other

    def _item_features(self) -> dict[str, Floats]:
        lengths = np.array([len(item.abstract) for item in self.items], dtype=np.float32)
        counts = self.statistics
        return {
            "year": np.nan_to_num((self._years - _YEAR_CENTRE) / _YEAR_SCALE),
            "abstract_length": np.log1p(lengths) / 10,
            "no_abstract": (lengths == 0).astype(np.float32),
            "recommended": np.log1p(counts.recommended),
            "recent": np.log1p(counts.recent),
            "named": np.log1p(counts.named),
            "recommended_title": np.log1p(counts.title),
        }

    def features(
        self,
        messages: Sequence[ChatMessage],
        vectors: QueryVectors,
        *,
        state: DialogueState | None = None,
    ) -> Floats:
        """Return the matrix of shape (N, len(FEATURES)); the adapter's columns are left at 0.

        Parameters
        ----------
        state
            Where it has been read already.
        """
        state = self.reader.read(messages) if state is None else state
        found: dict[str, Floats] = dict(self._static)
        self._dense(found, vectors, state)
        self._words(found, messages)
        self._wishes(found, state)
        self._company(found, state)
        self._mentions(found, state)
        matrix = np.zeros((len(self.items), len(FEATURES)), dtype=np.float32)
        for name, values in found.items():
            matrix[:, _COLUMN[name]] = values
        return matrix

    def ruled_out(self, state: DialogueState) -> npt.NDArray[np.bool_]:
        """Return which items the user wants no more of, shape (N,): turned down, or of a genre ruled out."""
        hidden: npt.NDArray[np.bool_] = self._genres.scores((k, 1.0) for k in state.ruled_out) > 0
        hidden[[item.item for item in state.named if item.rejected]] = True
        return hidden

    # -- the groups --------------------------------------------------------------------------------

    def named_vector(self, state: DialogueState) -> Floats:
        """Return the mean vector of the named items, recent ones weighing more; zeros without any."""
        named = [item for item in state.named if not item.rejected] or list(state.named)
        if not named:
            return np.zeros(self.vectors.shape[1], dtype=np.float32)
        weights = np.array([_weight(item, state) for item in named], dtype=np.float32)
        mean = (weights[:, None] * self.vectors[[item.item for item in named]]).sum(axis=0)
        unit: Floats = mean / max(float(np.linalg.norm(mean)), 1e-9)
        return unit

    def _dense(self, found: dict[str, Floats], vectors: QueryVectors, state: DialogueState) -> None:
        parts = {"dense_dialogue": vectors.dialogue, "dense_last": vectors.last, "dense_query": vectors.query}
        for name, vector in parts.items():
            if vector is not None:
                found[name] = self.vectors @ vector
        if state.named:
            found["dense_named"] = self.vectors @ self.named_vector(state)
            near = self.vectors @ self.vectors[[item.item for item in state.named]].T
            rows = [item.item for item in state.named]
            near[rows, range(len(rows))] = 0  # an item is not like itself
            found["dense_named_best"] = near.max(axis=1)

    def _words(self, found: dict[str, Floats], messages: Sequence[ChatMessage]) -> None:
        dialogue, last = dialogue_texts(messages)
        whole = self._texts.scores(dialogue)
        found["bm25_dialogue"] = np.log1p(whole)
        found["bm25_share"] = whole / max(float(whole.max(initial=0.0)), 1e-9)
        found["bm25_last"] = np.log1p(self._texts.scores(last))
        found["bm25_title"] = np.log1p(self._titles.scores(dialogue))
        found["bm25_title_last"] = np.log1p(self._titles.scores(last))

    def _wishes(self, found: dict[str, Floats], state: DialogueState) -> None:
        end = state.messages - 1
        found["people_named"] = (
            self._people.scores((k, _FADE ** (end - n)) for k, n in state.people.items()) / 5
        )
        found["genre_asked"] = (
            self._genres.scores((k, _FADE ** (end - n)) for k, n in state.genres.items()) / 3
        )
        found["genre_ruled_out"] = self._genres.scores((k, 1.0) for k in state.ruled_out) / 3
        if state.years:
            inside = [(low <= self._years) & (self._years <= high) for low, high in state.years]
            found["year_asked"] = np.any(inside, axis=0).astype(np.float32)

    def _company(self, found: dict[str, Floats], state: DialogueState) -> None:
        if not state.named:
            return
        size = len(self.items)
        together, last = np.zeros(size, dtype=np.float32), np.zeros(size, dtype=np.float32)
        shared = {"people": np.zeros(size, np.float32), "genres": np.zeros(size, np.float32)}
        titles = np.zeros(size, dtype=np.float32)
        weights = [_weight(item, state) for item in state.named]
        total = max(sum(weights), 1e-9)
        newest = state.named[0].last
        for item, weight in zip(state.named, weights, strict=True):
            others, counts = self.statistics.together(item.item)
            # Cosine of the two items' dialogues, damped for items seen once or twice.
            alike = counts / np.sqrt(
                (self.statistics.named[item.item] + 2) * (self.statistics.named[others] + 2)
            )
            together[others] += weight * alike
            if item.last == newest:
                last[others] += item.certainty * alike
            for name, index in (("people", self._people), ("genres", self._genres)):
                shared[name] += weight / total * index.scores((k, 1.0) for k in index.rows[item.item])
            words = self._title_words.rows[item.item]
            likeness = self._title_words.scores((word, 1.0) for word in words)
            likeness /= max(float(likeness[item.item]), 1e-9)
            likeness[item.item] = 0
            titles = np.maximum(titles, likeness * item.certainty)
        found["together"] = np.sqrt(together)
        found["together_last"] = np.sqrt(last)
        found["people_shared"] = shared["people"] / 5
        found["genre_shared"] = shared["genres"] / 5
        found["title_shared"] = titles
        years = self._years[[item.item for item in state.named]]
        if not np.isnan(years).all():
            centre = np.nansum(years * weights) / np.sum(np.where(np.isnan(years), 0, weights))
            found["year_gap"] = np.nan_to_num(-np.abs(self._years - centre) / _YEAR_SCALE, nan=-0.5)

    def _mentions(self, found: dict[str, Floats], state: DialogueState) -> None:
        names = [name for name in FEATURES if name.startswith(("is_", "named_"))]
        columns = {name: np.zeros(len(self.items), dtype=np.float32) for name in names}
        end = state.messages - 1
        newest = state.named[0].last if state.named else -1
        last_of = {
            "is_last_by_user": max((n.last for n in state.named if n.by_user), default=-1),
            "is_last_by_recommender": max((n.last for n in state.named if n.by_recommender), default=-1),
        }
        for named in state.named:
            sure = named.certainty
            values = {
                "is_named": 1.0,
                "is_last": named.last == newest,
                "is_in_last_message": named.last == end,
                "is_last_by_user": named.by_user and named.last == last_of["is_last_by_user"],
                "is_last_by_recommender": named.by_recommender
                and named.last == last_of["is_last_by_recommender"],
                "named_by_user": named.by_user,
                "named_by_recommender": named.by_recommender,
                "named_often": np.log(named.times),
                "named_long_ago": np.log1p(end - named.last),
                "is_liked": named.liked,
                "is_rejected": named.rejected,
                "is_seen": named.seen,
                "is_asked": named.asked,
            }
            for name, value in values.items():
                columns[name][named.item] = float(value) * sure
        found.update(columns)


def _weight(named: NamedItem, state: DialogueState) -> float:
    weight = named.certainty * _FADE ** (state.messages - 1 - named.last)
    return float(weight * (0.25 if named.rejected else 1.0))
