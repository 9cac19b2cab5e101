"""`ItemStatistics`: how often items were recommended and named together, for any catalog to use."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reges_index.catalog.item import Item
from reges_index.dialogue.text import phrase_key

__all__ = ["BoundStatistics", "ItemStatistics", "Observation", "id_hash", "title_hash"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
_MASK = 2**63 - 1
# A recommendation counts half when this share of its data set's dialogues came after it.
_HALF_LIFE = 0.2


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") & _MASK


def title_hash(item: Item) -> int:
    """Return a 63-bit number that catalogs share for the same title and year."""
    return _hash(f"{phrase_key(item.title) or item.title}|{item.year}")


def id_hash(item: Item) -> int:
    """Return a 63-bit number of id, title and year: tells items of one title and year apart."""
    return _hash(f"{item.id}|{phrase_key(item.title) or item.title}|{item.year}")


@dataclass(frozen=True)
class Observation:
    """What one train dialogue says about items.

    Attributes
    ----------
    named
        Items named anywhere in the dialogue, recommended ones among them, none twice.
    recommended
        Targets of its turns; an item may stand here several times.
    age
        Share of the data set's dialogues that came later, 0 to 1.
    """

    named: tuple[Item, ...]
    recommended: tuple[Item, ...]
    age: float = 0.0


@dataclass(frozen=True)
class BoundStatistics:
    """Statistics in the order of one catalog of N items.

    Attributes
    ----------
    recommended, recent, named
        Shape (N,): counts, the second with time decay. Of the very item where its id is known, else of all
        items of its title and year.
    title
        Shape (N,): recommendations of all items of that title and year, whatever the data set.
    known
        Share of the catalog's items that occur in the statistics at all.
    """

    recommended: Floats
    recent: Floats
    named: Floats
    title: Floats
    known: float
    _starts: Ints
    _others: Ints
    _counts: Floats

    def together(self, item: int) -> tuple[Ints, Floats]:
        """Return the items named in dialogues with ``item``, and in how many."""
        span = slice(self._starts[item], self._starts[item + 1])
        return self._others[span], self._counts[span]


@dataclass(frozen=True)
class ItemStatistics:
    """Counts over train dialogues, by hash; no text of any item.

    Attributes
    ----------
    ids, titles
        Shape (K,): `id_hash`, ascending, and `title_hash` of each item that occurs.
    recommended, recent, named
        Shape (K,): see `BoundStatistics`.
    pairs
        Shape (P, 2): rows of items that were named in the same dialogue, the smaller first.
    pair_counts
        Shape (P,): in how many dialogues.
    """

    ids: Ints
    titles: Ints
    recommended: Floats
    recent: Floats
    named: Floats
    pairs: Ints
    pair_counts: Floats

    @classmethod
    def count(cls, observations: Sequence[Observation]) -> ItemStatistics:
        """Count; a dialogue with one item adds no pair."""
        titles: dict[int, int] = {}
        recommended: Counter[int] = Counter()
        recent: defaultdict[int, float] = defaultdict(float)
        named: Counter[int] = Counter()
        pairs: Counter[tuple[int, int]] = Counter()
        for seen in observations:
            for item in (*seen.named, *seen.recommended):
                titles[id_hash(item)] = title_hash(item)
            for item in seen.recommended:
                recommended[id_hash(item)] += 1
                recent[id_hash(item)] += 0.5 ** (seen.age / _HALF_LIFE)
            keys = sorted({id_hash(item) for item in seen.named})
            named.update(keys)
            pairs.update((a, b) for n, a in enumerate(keys) for b in keys[n + 1 :])
        ids = sorted(titles)
        row = {key: place for place, key in enumerate(ids)}
        return cls(
            ids=np.array(ids, dtype=np.int64),
            titles=np.array([titles[key] for key in ids], dtype=np.int64),
            recommended=np.array([recommended[key] for key in ids], dtype=np.float32),
            recent=np.array([recent[key] for key in ids], dtype=np.float32),
            named=np.array([named[key] for key in ids], dtype=np.float32),
            pairs=np.array([(row[a], row[b]) for a, b in pairs], dtype=np.int64).reshape(-1, 2),
            pair_counts=np.array(list(pairs.values()), dtype=np.float32),
        )

    def bind(self, items: Sequence[Item]) -> BoundStatistics:
        """Arrange the counts for a catalog."""
        by_id: Mapping[int, int] = {int(key): row for row, key in enumerate(self.ids)}
        by_title: defaultdict[int, list[int]] = defaultdict(list)
        for row, key in enumerate(self.titles):
            by_title[int(key)].append(row)
        places: defaultdict[int, list[int]] = defaultdict(list)  # statistics row -> catalog positions
        counts = np.zeros((4, len(items)), dtype=np.float32)
        table = np.stack([self.recommended, self.recent, self.named])
        known = 0
        for position, item in enumerate(items):
            same_title = by_title.get(title_hash(item), [])
            own = by_id.get(id_hash(item))
            rows = same_title if own is None else [own]
            counts[:3, position] = table[:, rows].sum(axis=1)
            counts[3, position] = self.recommended[same_title].sum()
            known += bool(rows)
            for row in same_title:
                places[row].append(position)
        starts, others, values = self._neighbours(places, len(items))
        share = known / max(1, len(items))
        recommended, recent, named, title = counts
        return BoundStatistics(recommended, recent, named, title, share, starts, others, values)

    def _neighbours(self, places: Mapping[int, list[int]], size: int) -> tuple[Ints, Ints, Floats]:
        together: defaultdict[int, defaultdict[int, float]] = defaultdict(lambda: defaultdict(float))
        for (a, b), count in zip(self.pairs.tolist(), self.pair_counts.tolist(), strict=True):
            for first in places.get(a, ()):
                for second in places.get(b, ()):
                    if first != second:
                        together[first][second] += count
                        together[second][first] += count
        starts = np.zeros(size + 1, dtype=np.int64)
        starts[1:] = np.cumsum([len(together.get(position, ())) for position in range(size)])
        rows = [together[position] for position in range(size) if position in together]
        others = np.array([other for row in rows for other in row], dtype=np.int64)
        values = np.array([count for row in rows for count in row.values()], dtype=np.float32)
        return starts, others, values
