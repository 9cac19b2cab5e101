"""What the fits share: train sets with their vectors, folds of whole dialogues, observations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from reges_index.catalog.item import Item
from reges_index.dialogue import Turn
from reges_index.fusion.features import CatalogSources, QueryVectors, dialogue_texts
from reges_index.fusion.state import DialogueState
from reges_index.fusion.statistics import ItemStatistics, Observation, title_hash

__all__ = ["TrainSet", "observations", "split"]

Floats = npt.NDArray[np.float32]
Embed = Callable[[Sequence[str]], Floats]


@dataclass
class TrainSet:
    """The turns of one data set, read once.

    Attributes
    ----------
    name
        For reports only; nothing is decided by it.
    turns
        T turns, in the order of time as far as the file has one.
    sources
        The catalog, with empty statistics.
    vectors
        Of each turn.
    states
        Of each turn.
    targets
        Catalog positions of each turn's targets; those outside the catalog are left out.
    titles
        Shape (N,): `title_hash` of each item.
    """

    name: str
    turns: Sequence[Turn]
    sources: CatalogSources
    vectors: list[QueryVectors]
    states: list[DialogueState] = field(init=False)
    targets: list[list[int]] = field(init=False)
    titles: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        place = {item.id: n for n, item in enumerate(self.sources.items)}
        self.states = [self.sources.reader.read(turn.chat) for turn in self.turns]
        self.targets = [[place[t] for t in dict.fromkeys(turn.targets) if t in place] for turn in self.turns]
        self.titles = np.array([title_hash(item) for item in self.sources.items], dtype=np.int64)

    @classmethod
    def build(
        cls,
        name: str,
        turns: Sequence[Turn],
        items: Sequence[Item],
        embed_items: Embed,
        embed_queries: Embed,
        queries: dict[str, str] | None = None,
    ) -> TrainSet:
        """Embed and read a data set; ``queries`` maps turn ids to refined queries."""
        sources = CatalogSources(
            items, embed_items([item.text() for item in items]), ItemStatistics.count([])
        )
        texts = [dialogue_texts(turn.chat) for turn in turns]
        whole, last = embed_queries([t[0] for t in texts]), embed_queries([t[1] for t in texts])
        refined: dict[str, Floats] = {}
        if queries:
            ids = [turn.id for turn in turns if turn.id in queries]
            refined = dict(zip(ids, embed_queries([queries[i] for i in ids]), strict=True))
        vectors = [QueryVectors(a, b, refined.get(t.id)) for a, b, t in zip(whole, last, turns, strict=True)]
        return cls(name, turns, sources, vectors)

    def blocks(self) -> Floats:
        """Return the adapter's input, shape (T, len(BLOCKS), d)."""
        rows = [
            np.stack([v.dialogue, v.last, self.sources.named_vector(s)])
            for v, s in zip(self.vectors, self.states, strict=True)
        ]
        return np.stack(rows)


def split(train: TrainSet, folds: int) -> npt.NDArray[np.int64]:
    """Return each turn's fold: whole dialogues, neighbours in time together, since popularity shifts."""
    dialogues = {
        name: place for place, name in enumerate(dict.fromkeys(t.dialog_id or t.id for t in train.turns))
    }
    numbers = np.array([dialogues[t.dialog_id or t.id] for t in train.turns], dtype=np.int64)
    return numbers * folds // max(1, len(dialogues))


def observations(train: TrainSet, rows: Sequence[int]) -> list[Observation]:
    """Return what the dialogues of these turns say about items, one observation a dialogue."""
    items = train.sources.items
    named: dict[str, dict[int, None]] = {}
    recommended: dict[str, list[int]] = {}
    for row in rows:
        turn = train.turns[row]
        key = turn.dialog_id or turn.id
        sure = [n.item for n in train.states[row].named if n.certainty == 1]
        named.setdefault(key, {}).update(dict.fromkeys([*sure, *train.targets[row]]))
        recommended.setdefault(key, []).extend(train.targets[row])
    count = len(named)
    return [
        Observation(
            tuple(items[i] for i in named[key]),
            tuple(items[i] for i in recommended[key]),
            age=1 - (number + 1) / count,
        )
        for number, key in enumerate(named)
    ]
