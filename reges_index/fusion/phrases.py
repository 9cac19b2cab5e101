"""Names looked up in running text: one hash look-up for each run of words, whatever the catalog's size."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from reges_index.dialogue import one_line

__all__ = ["Hit", "Text", "phrase_key", "phrase_words"]

_WORD = re.compile(r"\w+")
_MAX_WORDS = 12
# Sequels are written every way: "Rocky II", "Rocky 2", "rocky two".
_NUMERALS = {
    **{"ii": "2", "iii": "3", "iv": "4", "vi": "6", "vii": "7", "viii": "8", "ix": "9"},
    **{"one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7"},
    **{"eight": "8", "nine": "9", "ten": "10"},
}


def _plain(text: str) -> str:
    """Drop accents, keep case and order, and write "&" as the word that people say."""
    spread = unicodedata.normalize("NFKD", one_line(text).replace("&", " and "))
    return "".join(char for char in spread if not unicodedata.combining(char))


def phrase_words(text: str) -> list[str]:
    """Return the words of ``text``, folded for look-up: case, accents and numerals."""
    return [_NUMERALS.get(word, word) for word in _WORD.findall(_plain(text).casefold())]


def phrase_key(text: str) -> str:
    """Return what all spellings of a name share: its folded words without the blanks between them.

    Examples
    --------
    >>> phrase_key("Spider-Man II") == phrase_key("spiderman 2")
    True
    >>> phrase_key("Schindler's List") == phrase_key("schindlers list")
    True
    """
    return "".join(phrase_words(text))


@dataclass(frozen=True)
class Hit:
    """A run of words that is a known name.

    Attributes
    ----------
    key
        `phrase_key` of the name.
    first, last
        Numbers of its first and last word in the text.
    """

    key: str
    first: int
    last: int


class Text:
    """A message prepared for look-ups.

    Attributes
    ----------
    plain
        The text without accents, its case kept.
    words
        Folded words.
    spans
        Start and end of each word in ``plain``.
    """

    def __init__(self, text: str) -> None:
        self.plain = _plain(text)
        found = list(_WORD.finditer(self.plain))
        self.spans = [match.span() for match in found]
        folded = [match.group().casefold() for match in found]
        self.words = [_NUMERALS.get(word, word) for word in folded]

    def runs(self, known: Iterable[str] | dict[str, object]) -> Iterator[Hit]:
        """Yield every run of words that is a key of ``known``, the longest first at each place."""
        keys = known if isinstance(known, (dict, set, frozenset)) else frozenset(known)
        for first in range(len(self.words)):
            run = ""
            found = []
            for last in range(first, min(first + _MAX_WORDS, len(self.words))):
                run += self.words[last]
                if run in keys:
                    found.append(Hit(run, first, last))
            yield from reversed(found)

    def written(self, hit: Hit) -> str:
        """Return the run as it stands in the text."""
        return self.plain[self.spans[hit.first][0] : self.spans[hit.last][1]]

    def before(self, hit: Hit) -> str:
        """Return the text in front of the run."""
        return self.plain[: self.spans[hit.first][0]]

    def after(self, hit: Hit) -> str:
        """Return the text behind the run."""
        return self.plain[self.spans[hit.last][1] :]
