"""Titles to catalog ids, for rankings that other systems give by name; how each was matched is counted."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from reges_index.catalog.item import Item

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

_YEAR = re.compile(r"^(?P<title>.*\S)\s*[(\[](?P<year>\d{4})[)\]]\s*$", re.DOTALL)
_ARTICLE = re.compile(r"^(?P<rest>.+), (?P<article>the|a|an)$")
_NOT_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Match:
    """What an entry of a ranking stands for.

    Attributes
    ----------
    item
        Id of the item; None when unmatched.
    kind
        ``id``; ``exact`` (the title as it is); ``with_year`` ("Title (Year)"); ``casefold`` (after folding
        case, accents' form, punctuation and a trailing article); ``year_off_by_one`` (the title, and a year
        one off, as with festival and cinema releases); ``ambiguous`` (several items fit: the first of the
        catalog is taken, without a look at the targets); ``unmatched``.
    """

    item: str | None
    kind: MatchKind


def _fold(title: str) -> str:
    text = " ".join(unicodedata.normalize("NFKC", title).casefold().split())
    moved = _ARTICLE.match(text)  # "Matrix, The" as in MovieLens and ReDial
    if moved:
        text = f"{moved['article']} {moved['rest']}"
    # A title of signs only ("!!!") would fold to nothing and match every other such title.
    return _NOT_WORD.sub(" ", text).strip() or text


class TitleMatcher:
    """Looks up ids and titles in a catalog.

    Parameters
    ----------
    items
        The catalog; among several items that fit, the earliest is taken.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self._ids = {item.id for item in items}
        self._exact: dict[str, list[Item]] = defaultdict(list)
        self._folded: dict[str, list[Item]] = defaultdict(list)
        for item in items:
            self._exact[item.title].append(item)
            self._folded[_fold(item.title)].append(item)

    def match(self, entry: str) -> Match:
        """Return the item that ``entry``, an id or a title, stands for."""
        if entry in self._ids:
            return Match(entry, "id")
        if found := self._exact.get(entry.strip()):
            return self._one(found, "exact")
        with_year = _YEAR.match(entry)
        if with_year:
            title, year = with_year["title"], int(with_year["year"])
            if found := [item for item in self._exact.get(title, ()) if item.year == year]:
                return self._one(found, "with_year")
            same_title = self._folded.get(_fold(title), [])
            if found := [item for item in same_title if item.year == year or item.year is None]:
                return self._one(found, "casefold")
            near = [item for item in same_title if item.year is not None and abs(item.year - year) == 1]
            if near:
                return self._one(near, "year_off_by_one")
        if found := self._folded.get(_fold(entry)):
            return self._one(found, "casefold")
        return Match(None, "unmatched")

    @staticmethod
    def _one(found: Sequence[Item], kind: MatchKind) -> Match:
        return Match(found[0].id, kind if len(found) == 1 else "ambiguous")
