"""Lexical sources: BM25 over items' texts and titles, people and genres shared with what was said."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from reges_index.catalog.item import Item
from reges_index.dialogue.text import phrase_key, phrase_words
from reges_index.fusion.state import genre_stem

__all__ = ["BM25", "Attributes", "item_attributes"]

Floats = npt.NDArray[np.float32]


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

    def scores(self, text: str) -> Floats:
        """Return the score of each document, shape (N,); zeros where no word is shared."""
        if self._index is None:
            return np.zeros(self._size, dtype=np.float32)
        known = [w for w in self._words(text) if w in self._index.vocab_dict and w not in _stop_words()]
        if not known:
            return np.zeros(self._size, dtype=np.float32)
        return np.asarray(self._index.get_scores(known), dtype=np.float32)


@lru_cache(maxsize=1)
def _stop_words() -> frozenset[str]:
    from bm25s.stopwords import STOPWORDS_EN

    return frozenset(STOPWORDS_EN)


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


def item_attributes(items: Sequence[Item]) -> dict[str, Attributes]:
    """Return the indices of people, genres and title words of a catalog."""
    return {
        "people": Attributes([[phrase_key(name) for name in (*i.creators, *i.cast)] for i in items]),
        "genres": Attributes(
            [[genre_stem(w) for genre in i.genres for w in phrase_words(genre)] for i in items]
        ),
        "titles": Attributes(
            [[w for w in phrase_words(i.title) if w not in _stop_words() and not w.isdigit()] for i in items]
        ),
    }
