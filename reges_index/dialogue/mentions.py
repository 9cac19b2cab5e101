"""Which titles a dialogue names: exact titles, with care for those that are everyday words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from llama_index.core.base.llms.types import ChatMessage

from reges_index.dialogue.text import normalise, one_line

__all__ = ["find_mentions"]

_WORD = re.compile(r"\w+")
_YEAR_BEHIND = re.compile(r"\W{0,2}?\s*\(?\s*((?:19|20)\d\d)\b")
_YEAR_IN_BRACKETS = re.compile(r"\W{0,2}?\s*\(\s*((?:19|20)\d\d)\s*\)")
_OPENING, _CLOSING = frozenset("\"“‘*'"), frozenset("\"”’*'.,!?")
_INSIDE_SENTENCE = re.compile(r"[a-z0-9,;]\s+[^\w\s]?$")


@dataclass(frozen=True)
class _Place:
    """Where the words of a title stand in a message: numbers of words, and characters of the text."""

    name: tuple[str, ...]
    start: int
    text: str
    first: int
    last: int
    alone: bool

    @property
    def end(self) -> int:
        return self.start + len(self.name)


def find_mentions(
    messages: Sequence[ChatMessage], titles: Sequence[str], years: Sequence[int | None] | None = None
) -> set[int]:
    """Return the indices of the titles that the messages name.

    A title of several words counts wherever its words stand in a row, in any case. A title of one word
    ("It", "Heat", "Up") counts only where it is written as a name: with a year behind it, in quotation
    marks, capitalised inside a sentence, or as the whole message. Words that belong to a longer one of the
    titles do not count for a shorter ("Toy Story" in "Toy Story 2"). A year in brackets behind a title has
    to be the item's own, so that remakes are told apart; without one, all items of that title count.

    Parameters
    ----------
    titles, years
        Of the items that are looked for; ``years`` may hold None, or be None as a whole.
    """
    names = [tuple(normalise(title).split()) for title in titles]
    by_first: dict[str, list[tuple[str, ...]]] = {}
    for name in sorted(set(names) - {()}):
        by_first.setdefault(name[0], []).append(name)
    places: dict[tuple[str, ...], list[_Place]] = {}
    for message in messages:
        for place in _outermost(_places(_without_accents(one_line(message.content or "")), by_first)):
            places.setdefault(place.name, []).append(place)
    years = years if years is not None else [None] * len(titles)
    return {
        index
        for index, (title, name, year) in enumerate(zip(titles, names, years, strict=True))
        if name in places and _named(places[name], title, year)
    }


def _places(text: str, by_first: Mapping[str, Sequence[tuple[str, ...]]]) -> list[_Place]:
    found = [(match[0].casefold(), match.start(), match.end()) for match in _WORD.finditer(text)]
    words = [word for word, _, _ in found]
    return [
        _Place(name, start, text, found[start][1], found[start + len(name) - 1][2], len(name) == len(found))
        for start, word in enumerate(words)
        for name in by_first.get(word, ())
        if tuple(words[start : start + len(name)]) == name
    ]


def _outermost(places: Sequence[_Place]) -> Iterator[_Place]:
    """Leave out the places that lie within a longer one."""
    covered = 0
    for place in sorted(places, key=lambda place: (place.start, -place.end)):
        if place.end > covered:
            covered = place.end
            yield place


def _named(places: Sequence[_Place], title: str, year: int | None) -> bool:
    dated = [match[1] for p in places if (match := _YEAR_IN_BRACKETS.match(p.text, p.last))]
    if dated and year is not None:
        return str(year) in dated
    written = "".join(_WORD.findall(_without_accents(title)))
    return any(len(place.name) > 1 or _as_name(place, written) for place in places)


def _as_name(place: _Place, written: str) -> bool:
    if place.alone or _YEAR_BEHIND.match(place.text, place.last):
        return True
    before = place.text[max(0, place.first - 6) : place.first]
    behind = place.text[place.last : place.last + 1]
    if before[-1:] in _OPENING and behind in _CLOSING:
        return True
    # A capital, and not because a sentence begins.
    as_written = place.text[place.first : place.last] == written != written.lower()
    return as_written and bool(_INSIDE_SENTENCE.search(before))


def _without_accents(text: str) -> str:
    if text.isascii():
        return text
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
