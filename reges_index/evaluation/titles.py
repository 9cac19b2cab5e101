"""Titles to catalog ids, for rankings that other systems give by name; how each was matched is counted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

from reges_index.catalog.item import Item
from reges_index.dialogue.messages import as_id
from reges_index.dialogue.titles import TitleIndex, parse_title

__all__ = ["MATCH_KINDS", "Match", "MatchKind", "TitleMatcher"]

MatchKind: TypeAlias = Literal[
    "id", "exact", "with_year", "casefold", "year_off_by_one", "ambiguous", "unmatched"
]
MATCH_KINDS: tuple[MatchKind, ...] = (
    "id",
    "exact",
    "with_year",
    "casefold",
    "year_off_by_one",
    "ambiguous",
    "unmatched",
)


@dataclass(frozen=True)
class Match:
    """What an entry of a ranking stands for.

    Attributes
    ----------
    item
        Id of the item; None when unmatched.
    kind
        ``id``; ``exact`` (the title as it is); ``with_year`` ("Title (Year)"); ``casefold`` (however
        people write it: `TitleIndex.match`); ``year_off_by_one`` (the title, and a year
        one off, as with festival and cinema releases); ``ambiguous`` (several items fit: the first of the
        catalog is taken, without a look at the targets); ``unmatched``.
    """

    item: str | None
    kind: MatchKind


class TitleMatcher:
    """Looks up ids and titles in a catalog.

    Parameters
    ----------
    items
        The catalog; among several items that fit, the earliest is taken.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = {item.id: item for item in items}
        self._exact: dict[str, list[Item]] = defaultdict(list)
        for item in items:
            self._exact[item.title].append(item)

    @cached_property
    def _index(self) -> TitleIndex:
        return TitleIndex.of(self._items.values())

    def match(self, entry: str) -> Match:
        """Return the item that ``entry``, an id or a title, stands for."""
        if (found_id := str(as_id(entry))) in self._items:
            return Match(found_id, "id")
        if found := self._exact.get(entry.strip()):
            return self._one(found, "exact")
        title, year = parse_title(entry)
        if year is not None and (found := [i for i in self._exact.get(title, ()) if i.year == year]):
            return self._one(found, "with_year")
        found = [self._items[self._index.ids[position]] for position in self._index.match(entry)]
        if not found:
            return Match(None, "unmatched")
        near = year is not None and found[0].year not in (None, year)
        return self._one(found, "year_off_by_one" if near else "casefold")

    @staticmethod
    def _one(found: Sequence[Item], kind: MatchKind) -> Match:
        return Match(found[0].id, kind if len(found) == 1 else "ambiguous")
