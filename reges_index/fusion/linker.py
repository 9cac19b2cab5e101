"""`EntityLinker`: which items of a catalog a dialogue names, where, and how sure that is."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from typing import Literal, TypeAlias

from llama_index.core.base.llms.types import ChatMessage

from reges_index.catalog.item import Item
from reges_index.fusion.phrases import Hit, Text, phrase_words

__all__ = ["EntityLinker", "Mention", "MentionKind"]

MentionKind: TypeAlias = Literal["title", "dated", "typo"]

_YEAR_BEHIND = re.compile(r"^\W{0,3}((?:18|19|20)\d\d)(?!\d)(?!\s*'?s\b)")
_DATED = re.compile(r"[(\[]\s*((?:18|19|20)\d\d)\s*[)\]]")
_ARTICLES = frozenset({"the", "a", "an"})
_QUOTES = '"“”‘’*_'
# A word that so many abstracts use in lower case is an everyday word: "heat", "up", "frozen".
_EVERYDAY_SHARE = 0.001
_TYPO_WORDS = 8
_TYPO_MIN_LETTERS = 6
_TYPO_SIMILARITY = 0.72


@dataclass(frozen=True)
class Mention:
    """A place where a dialogue names items.

    Attributes
    ----------
    items
        Positions of the items that it may mean: one, or all that share the title when no year tells.
    message
        Number of the message, from 0.
    first, last
        Numbers of the words in the message.
    kind
        "title"; "dated", with the item's own year behind it; "typo", a near spelling with the year.
    """

    items: tuple[int, ...]
    message: int
    first: int
    last: int
    kind: MentionKind


class EntityLinker:
    """Finds the titles of a catalog in messages.

    A title counts in any case, spelling of numerals and placing of blanks ("spiderman 2" is "Spider-Man II"),
    with or without its leading article. A title of everyday words ("It", "Heat", "About Time") counts only
    where it is written as a name: with its year, in quotation marks, or capitalised inside a sentence. What
    an everyday word is, a list of what people write in chats and the catalog's own abstracts tell, so the
    linker is bound to no domain. A longer title
    takes the place of a shorter one inside it ("Toy Story 2" does not name "Toy Story"). Words in front of a
    year in brackets that are no title are compared, by their letter triples, with the titles of that year.

    Parameters
    ----------
    items
        The catalog, in the order that positions refer to.
    typos
        Whether to look for near spellings.
    """

    def __init__(self, items: Sequence[Item], *, typos: bool = True) -> None:
        self._years = [item.year for item in items]
        self._typos = typos
        self._titles: dict[str, list[int]] = defaultdict(list)
        self._short: dict[str, list[int]] = defaultdict(list)
        self._by_year: dict[int, list[tuple[int, frozenset[str]]]] = defaultdict(list)
        counts: Counter[str] = Counter()
        for item in items:
            # Case is what tells a name from a word, so it is not folded here.
            counts.update(set(re.findall(r"\b[a-z0-9]+\b", item.abstract)))
        bar = _EVERYDAY_SHARE * len(items)
        self._everyday = {word for word, count in counts.items() if count > bar} | _everyday_words()
        for position, item in enumerate(items):
            words = phrase_words(item.title)
            if not words:
                continue
            self._titles["".join(words)].append(position)
            if words[0] in _ARTICLES and len(words) > 1:
                self._short["".join(words[1:])].append(position)
            if item.year is not None and typos:
                self._by_year[item.year].append((position, _triples("".join(words))))
        self._known: dict[str, object] = dict.fromkeys([*self._titles, *self._short])

    def link(self, messages: Sequence[ChatMessage]) -> list[Mention]:
        """Return all mentions, in the order of the dialogue."""
        return [
            replace(mention, message=number)
            for number, message in enumerate(messages)
            for mention in self._in_message(Text(message.content or ""))
        ]

    # -- one message -------------------------------------------------------------------------------

    def _in_message(self, text: Text) -> list[Mention]:
        found: list[Mention] = []
        taken: set[int] = set()
        # Longest first over the whole message, so that a longer title wins from either side.
        for hit in sorted(text.runs(self._known), key=lambda h: (h.first - h.last, h.first)):
            if taken.isdisjoint(range(hit.first, hit.last + 1)):
                mention = self._mention(text, hit)
                if mention is not None:
                    found.append(mention)
                    taken.update(range(hit.first, hit.last + 1))
        if self._typos:
            found += self._near(text, taken)
        return sorted(found, key=lambda mention: mention.first)

    def _mention(self, text: Text, hit: Hit) -> Mention | None:
        whole = self._titles.get(hit.key, [])
        items = whole or self._short[hit.key]
        behind = _YEAR_BEHIND.match(text.after(hit))
        if behind:
            year = int(behind[1])
            both = [*whole, *self._short.get(hit.key, [])]
            for slack in (0, 1):
                near = [i for i in both if self._years[i] is not None and abs(self._years[i] - year) <= slack]  # type: ignore[operator]
                if near:
                    return Mention(tuple(near), 0, hit.first, hit.last, "dated")
            items = [i for i in items if self._years[i] is None]
            if not items:
                return None
        elif not self._as_name(text, hit, short=not whole):
            return None
        return Mention(tuple(items), 0, hit.first, hit.last, "title")

    def _as_name(self, text: Text, hit: Hit, *, short: bool) -> bool:
        words = text.words[hit.first : hit.last + 1]
        rare = [word for word in words if word not in self._everyday and not word.isdigit()]
        if short and not rare and len(words) == 1:
            return False  # "Comedy" for "The Comedy"
        if rare and (len(words) > 1 or (not short and len(hit.key) > 3)):
            return True
        if len(words) >= 4:
            return True
        before, after, written = text.before(hit), text.after(hit), text.written(hit)
        if before[-1:] in _QUOTES and before and after[:1] in _QUOTES + ".,!?" and after:
            return True
        named = [part for part in written.split() if part[:1].isalpha() and part.casefold() not in _ARTICLES]
        if not named or not all(part[:1].isupper() for part in named):
            return False
        if len(named) > 1:
            return True
        # One capitalised word: a name after a lower-case word or a comma, not at the start of a sentence.
        return bool(re.search(r"[a-z0-9,;]\s+(?:[Tt]he\s+|[Aa]n?\s+)?$", before)) and not written.isupper()

    def _near(self, text: Text, taken: set[int]) -> list[Mention]:
        found = []
        ends = [end for _, end in text.spans]
        for year in _DATED.finditer(text.plain):
            last = max((i for i, end in enumerate(ends) if end <= year.start()), default=-1)
            if last < 0 or last in taken:
                continue
            titles = [entry for y in (0, 1, -1) for entry in self._by_year.get(int(year[1]) + y, [])]
            best, first, position = _TYPO_SIMILARITY, -1, -1
            run = ""
            for start in range(last, max(-1, last - _TYPO_WORDS), -1):
                if start in taken:
                    break
                run = text.words[start] + run
                if len(run) < _TYPO_MIN_LETTERS:
                    continue
                mine = _triples(run)
                for candidate, theirs in titles:
                    alike = 2 * len(mine & theirs) / (len(mine) + len(theirs))
                    if alike > best:
                        best, first, position = alike, start, candidate
            if position >= 0:
                found.append(Mention((position,), 0, first, last, "typo"))
                taken.update(range(first, last + 1))
        return found


@lru_cache(maxsize=1)
def _everyday_words() -> frozenset[str]:
    listed = (resources.files("reges_index.dialogue") / "everyday.txt").read_text("utf-8")
    return frozenset(listed.split()) | _ARTICLES


def _triples(key: str) -> frozenset[str]:
    padded = f"^{key}$"
    return frozenset(padded[i : i + 3] for i in range(len(padded) - 2))
