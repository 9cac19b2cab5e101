"""What is evaluated on: turns, catalog and training popularity, with a hash that names them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from reges_index.catalog.item import Item
from reges_index.catalog.readers import read_items
from reges_index.dialogue import Turn, read_turns
from reges_index.errors import InputError
from reges_index.files import sha256_of


def target_counts(turns: Iterable[Turn]) -> Counter[str]:
    """Return how many turns have each item as a target."""
    return Counter(target for turn in turns for target in dict.fromkeys(turn.targets))


@dataclass(frozen=True)
class EvaluationData:
    """Turns to judge, the catalog they are judged against, and train turns for popularity.

    Attributes
    ----------
    turns
        Turns with targets; turns without any are counted and left out of every denominator.
    items
        The catalog, in its order.
    train
        Train turns; empty when unknown. They never enter a score, only the popularity of items.
    files
        Name of each input ("conversations", "catalog", "train") to path and SHA-256, for the report.

    Raises
    ------
    InputError
        If there is no turn with a target, no item, or an id occurs twice.
    """

    turns: tuple[Turn, ...]
    items: tuple[Item, ...]
    train: tuple[Turn, ...] = ()
    files: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not any(turn.targets for turn in self.turns):
            raise InputError(
                f"none of the {len(self.turns)} turns has a target: nothing can be scored",
                hint="each turn needs 'targets', the ids of the items that were recommended",
            )
        if not self.items:
            raise InputError("the catalog is empty", hint="a catalog needs at least one item")
        for what, ids in (("turn", [t.id for t in self.turns]), ("item", [i.id for i in self.items])):
            twice = [name for name, count in Counter(ids).items() if count > 1]
            if twice:
                raise InputError(f"{what} id {twice[0]!r} occurs twice", hint="ids must be unique")

    @classmethod
    def read(
        cls, conversations: str | Path, catalog: str | Path, train: str | Path | None = None
    ) -> EvaluationData:
        """Read the files that ``reges evaluate`` takes.

        Raises
        ------
        InputError
            As `read_turns`, `read_items` and the class say.
        """
        paths = {"conversations": conversations, "catalog": catalog} | ({"train": train} if train else {})
        turns = tuple(read_turns(conversations))
        items = tuple(read_items(catalog))
        seen = tuple(read_turns(train)) if train else ()
        files = {name: {"path": str(path), "sha256": sha256_of(path)} for name, path in paths.items()}
        return cls(turns, items, seen, files)

    @cached_property
    def positions(self) -> dict[str, int]:
        """Item id to its place in the catalog."""
        return {item.id: place for place, item in enumerate(self.items)}

    @cached_property
    def by_id(self) -> dict[str, Item]:
        """Item id to item."""
        return {item.id: item for item in self.items}

    @cached_property
    def popularity(self) -> Counter[str] | None:
        """How often each item is a target in the train turns; None without train turns."""
        return target_counts(self.train) if self.train else None

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) over turns and catalog by content, whatever the files' layout or place.

        Two reports compare only when theirs are equal. Train turns are left out: they change no score.
        """
        digest = hashlib.sha256()
        for turn in self.turns:
            digest.update(json.dumps(turn.model_dump(mode="json"), sort_keys=True).encode() + b"\n")
        for item in self.items:
            digest.update(json.dumps([item.id, item.title, item.year]).encode() + b"\n")
        return digest.hexdigest()

    def subset(self, turns: Sequence[Turn]) -> EvaluationData:
        """Return the same catalog and train turns with other turns to judge."""
        return EvaluationData(tuple(turns), self.items, self.train, self.files)
