"""What train dialogues say of items, for any catalog to use; no text of any dialogue or item.

`ItemStatistics`: how often items were recommended and named together. `Neighbours`: what was recommended, or
named by a teacher, in the train dialogues most like a new one.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from reges_index.catalog.item import Item
from reges_index.dialogue.text import phrase_key

if TYPE_CHECKING:
    from scipy import sparse

Floats = npt.NDArray[np.float32]
AnyFloats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]
_MASK = 2**63 - 1
# A recommendation counts half when this share of its data set's dialogues came after it.
_HALF_LIFE = 0.2
# How many dialogues have a say, how fast it falls with their likeness, and what an item has that none of
# them names. Chosen by cross-validation on the train sets (finetune/FUSION.md).
_NEAREST = 300
_SHARPNESS = 15.0
_FLOOR = 3e-4


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
    _pairs: sparse.csr_array

    def together(self, item: int) -> tuple[Ints, Floats]:
        """Return the items named in dialogues with ``item``, and in how many."""
        span = slice(self._pairs.indptr[item], self._pairs.indptr[item + 1])
        return self._pairs.indices[span], self._pairs.data[span]


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
        from scipy import sparse  # comes with sentence-transformers, without which no fusion runs

        by_id = {int(key): row for row, key in enumerate(self.ids)}
        by_title: defaultdict[int, list[int]] = defaultdict(list)
        for row, key in enumerate(self.titles):
            by_title[int(key)].append(row)
        alike = [by_title.get(title_hash(item), []) for item in items]
        own = [
            [by_id[key]] if (key := id_hash(item)) in by_id else rows
            for item, rows in zip(items, alike, strict=True)
        ]

        def table(rows: Sequence[Sequence[int]]) -> sparse.csr_array:
            """Say with ones which rows of the statistics an item has, shape (N, K)."""
            columns = [row for its in rows for row in its]
            starts = np.cumsum([0, *map(len, rows)])
            ones = np.ones(len(columns), dtype=np.float32)
            return sparse.csr_array((ones, columns, starts), shape=(len(items), len(self.ids)))

        by_alike = table(alike)
        by_id_first = table(own)
        recommended, recent, named = (
            by_id_first @ counts for counts in (self.recommended, self.recent, self.named)
        )
        shape = (len(self.ids), len(self.ids))
        pairs = sparse.coo_array((self.pair_counts, self.pairs.T), shape=shape).tocsr()
        together = by_alike @ (pairs + pairs.T) @ by_alike.T
        together = sparse.csr_array(together - sparse.diags_array(together.diagonal()))
        together.eliminate_zeros()
        known = sum(map(bool, own)) / max(1, len(items))
        return BoundStatistics(recommended, recent, named, by_alike @ self.recommended, known, together)


def place_weights(count: int) -> npt.NDArray[np.float64]:
    """Return what each place of a ranking counts beside the others, shape (count,): the first ones more."""
    return 1 / (1.5 + np.arange(count))


def shares_of(targets: Sequence[Item], ranking: Sequence[Item], teacher_share: float) -> dict[Item, float]:
    """Return what each item has of one dialogue's word; all shares sum to 1.

    Parameters
    ----------
    targets
        What was recommended.
    ranking
        What a teacher names there, best first; without any, the targets have it all.
    teacher_share
        What the teacher's items have together, the first ones more.
    """
    found: defaultdict[Item, float] = defaultdict(float)
    left = teacher_share if ranking else 0.0
    if not targets:
        left = 1.0
    for item in targets:
        found[item] += (1 - left) / len(targets)
    weights = place_weights(len(ranking))
    for item, weight in zip(ranking, weights / max(float(weights.sum()), 1e-9), strict=True):
        found[item] += left * float(weight)
    return dict(found)


@dataclass(frozen=True)
class Neighbours:
    """Train dialogues by their vectors; no text of any dialogue or item.

    Attributes
    ----------
    vectors
        Shape (T, d): of the dialogues, unit length, in half precision.
    starts
        Shape (T + 1,): where each dialogue's entries begin in the two below.
    titles, shares
        Shape (E,): `title_hash` of an item, and its share of the dialogue's word.
    """

    vectors: npt.NDArray[np.float16]
    starts: Ints
    titles: Ints
    shares: Floats

    @classmethod
    def count(cls, vectors: Sequence[AnyFloats], words: Sequence[Mapping[Item, float]]) -> Neighbours:
        """Keep dialogues, shape (d,) each, with what `shares_of` says of each."""
        return cls(
            vectors=np.array(vectors, dtype=np.float16) if vectors else np.zeros((0, 0), dtype=np.float16),
            starts=np.cumsum([0, *(len(word) for word in words)], dtype=np.int64),
            titles=np.array([title_hash(item) for word in words for item in word], dtype=np.int64),
            shares=np.array([share for word in words for share in word.values()], dtype=np.float32),
        )

    def bind(self, items: Sequence[Item]) -> BoundNeighbours:
        """Arrange the entries for a catalog; those whose items it does not have count for nothing."""
        from scipy import sparse

        places: defaultdict[int, list[int]] = defaultdict(list)
        for position, item in enumerate(items):
            places[title_hash(item)].append(position)
        dialogues = np.repeat(np.arange(len(self.vectors)), np.diff(self.starts)).tolist()
        found = [
            (dialogue, position, share)
            for dialogue, title, share in zip(dialogues, self.titles.tolist(), self.shares, strict=True)
            for position in places.get(title, ())
        ]
        rows, columns, shares = np.array(found, dtype=np.float64).reshape(-1, 3).T
        shape = (len(self.vectors), len(items))
        words = sparse.coo_array((shares, (rows.astype(int), columns.astype(int))), shape=shape)
        return BoundNeighbours(self.vectors.astype(np.float32), words.tocsr())


@dataclass(frozen=True)
class BoundNeighbours:
    """Neighbours in the order of one catalog of N items; see `Neighbours`."""

    _vectors: AnyFloats
    _words: sparse.csr_array

    def scores(self, vector: AnyFloats) -> AnyFloats:
        """Return how much the nearest dialogues speak for each item, shape (N,), from 0 on.

        Parameters
        ----------
        vector
            Shape (d,): of the dialogue, unit length.
        """
        total = np.zeros(self._words.shape[1])
        if self._words.nnz:
            alike = self._vectors @ vector
            best = np.argsort(-alike, kind="stable")[:_NEAREST]
            says = np.exp(_SHARPNESS * (alike[best] - alike[best[0]]))
            total = (says / says.sum()) @ self._words[best]
        return np.log1p(total / _FLOOR)
