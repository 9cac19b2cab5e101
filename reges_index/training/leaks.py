"""Does a pseudo-query give the answer away? Titles of the truth that the dialogue does not hold.

LLM_QR never sees the truth. A pseudo-query that names it where nobody has named it teaches LLM_QR to invent
titles, so such queries are no training data (section 2.3 wants what *in the history* justifies the item).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from reges_index.catalog import Item
from reges_index.dialogue import Turn

__all__ = ["TitleLeaks"]

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_YEAR_AT_END = re.compile(r"\s*\(\d{4}\)\s*$")
_ARTICLES = frozenset({"the", "a", "an"})
_QUOTES = "\"'“”‘’«»*"
# A word that this many items' texts write in lower case is an ordinary word, not only a name.
_ORDINARY_FROM = 2
# So frequent that they are ordinary even where the catalog is too small to show it.
_FUNCTION_WORDS = frozenset(
    """
    about after all and any before down for from get go good he her here him his home how i in it just
    like me more no not now of off on once one or other our out over she so some that the them then
    there they this to two under up us was we what when where who why with you your
    """.split()  # noqa: SIM905 (seventy words are easier to read as text)
)


@dataclass(frozen=True)
class _Word:
    key: str  # case-folded, without accents
    start: int
    end: int


def _words(text: str) -> list[_Word]:
    text = text.replace("&", "+")  # "Lilo & Stitch" and "Lilo and Stitch": both lose the conjunction below
    found = (_Word(_fold(m.group()), m.start(), m.end()) for m in _WORD.finditer(text))
    return [word for word in found if word.key != "and"]


def _fold(text: str) -> str:
    spread = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in spread if not unicodedata.combining(c) and c not in "'’")


@dataclass(frozen=True)
class _Title:
    """A title as words, to be looked for; ``ordinary`` when its words also occur as plain language."""

    text: str
    words: tuple[str, ...]
    ordinary: bool


class TitleLeaks:
    """Finds titles of a turn's targets in a text, unless the dialogue holds them.

    A title matches as whole words, whatever the case, accents, punctuation and leading article ("Conjuring"
    for "The Conjuring"); the part before a colon counts as a title of its own ("Star Wars" for "Star Wars:
    A New Hope"). Titles of one or two ordinary words ("Up", "Heat", "About Time") and numbers ("300") would
    match plain language, so they count only when written as a title: with capital letters inside a
    sentence, in quotes, or with a year in brackets behind. Which words are ordinary is counted in the
    catalog's own texts: what two items or more write in lower case.

    Parameters
    ----------
    items
        The catalog.
    """

    def __init__(self, items: Mapping[str, Item]) -> None:
        self._items = items
        self._titles: dict[str, tuple[_Title, ...]] = {}

    @cached_property
    def _ordinary_words(self) -> frozenset[str]:
        seen: Counter[str] = Counter()
        for item in self._items.values():
            seen.update({_fold(m.group()) for m in _WORD.finditer(item.abstract) if m.group()[0].islower()})
        return _FUNCTION_WORDS | {word for word, count in seen.items() if count >= _ORDINARY_FROM}

    def _titles_of(self, item_id: str) -> tuple[_Title, ...]:
        if item_id not in self._titles:
            whole = _YEAR_AT_END.sub("", self._items[item_id].title)
            forms = dict.fromkeys([whole, re.split(r":\s|\s[-–—]\s", whole, maxsplit=1)[0]])
            self._titles[item_id] = tuple(title for form in forms if (title := self._title(form)) is not None)
        return self._titles[item_id]

    def _title(self, text: str) -> _Title | None:
        words = [word.key for word in _words(text)]
        if len(words) > 1 and words[0] in _ARTICLES:
            words = words[1:]
        if not words:
            return None
        ordinary = all(word.isdigit() or word in self._ordinary_words for word in words)
        return _Title(text.strip(), tuple(words), ordinary and len(words) <= 2)

    def find(self, text: str, turn: Turn) -> tuple[str, ...]:
        """Return the titles that ``text`` gives away, in the order of the targets.

        Parameters
        ----------
        text
            A pseudo-query or a piece of reasoning.
        turn
            The turn it was written for. Targets that are not in the catalog are passed over.
        """
        words = _words(text)
        history: list[tuple[str, list[_Word]]] | None = None
        leaked: dict[str, None] = {}
        for target in turn.targets:
            if target not in self._items or target in (turn.mentioned or ()):
                continue
            for title in self._titles_of(target):
                if not _holds(text, words, title, strict=title.ordinary):
                    continue
                if history is None:
                    history = [(m.content, _words(m.content)) for m in turn.messages]
                # Seekers write titles in lower case. Where annotators said what was mentioned, a plain word
                # is no mention; where nobody did, it gets the benefit of the doubt.
                strict = title.ordinary and turn.mentioned is not None
                if not any(_holds(said, own, title, strict=strict) for said, own in history):
                    leaked[title.text] = None
        return tuple(leaked)


def _holds(text: str, words: list[_Word], title: _Title, *, strict: bool) -> bool:
    size = len(title.words)
    for first in _places(words, title.words):
        match = words[first : first + size]
        if not strict or _written_as_title(text, match):
            return True
    return False


def _places(words: list[_Word], wanted: tuple[str, ...]) -> Iterable[int]:
    for first in range(len(words) - len(wanted) + 1):
        if all(words[first + offset].key == key for offset, key in enumerate(wanted)):
            yield first


def _written_as_title(text: str, match: list[_Word]) -> bool:
    before, after = text[: match[0].start].rstrip(), text[match[-1].end :]
    if re.match(r"\s*\(\d{4}\)", after):
        return True
    if before[-1:] and before[-1] in _QUOTES and after[:1] and after[0] in _QUOTES:
        return True
    starts_sentence = not before or before[-1] in ".!?:"
    capital = all(text[word.start].isupper() for word in match)
    return capital and (not starts_sentence or len(match) > 1)
