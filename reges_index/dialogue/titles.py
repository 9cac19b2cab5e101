"""`TitleIndex`: the one place that finds, links and matches the titles of a catalog in what people write."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from importlib import resources
from itertools import pairwise
from typing import TYPE_CHECKING

from llama_index.core.base.llms.types import ChatMessage

from reges_index.dialogue.text import (
    Hit,
    Text,
    is_unspaced,
    parse_title,
    phrase_key,
    phrase_words,
    runs,
    without_accents,
)

if TYPE_CHECKING:
    from reges_index.catalog.item import Item

# How titles are written.
_YEAR = r"(?:1[89]|20)\d\d"
_SEPARATOR = re.compile(
    r"(?:\s+or)?[:：]\s*|\s+or\s+(?=[(\"])|\s[-–—/|]+\s|,\s|\s*[(\[（]|[)\]）]\s*|\s*[\"“”«»]\s*"
)
_ARTICLES = frozenset({"the", "a", "an"})
_SMALL = _ARTICLES | {"of", "in", "to", "and", "for", "at", "on", "with", "from", "by", "or", "v", "vs"}
_CHAPTERS = frozenset({"part", "chapter", "volume", "vol", "episode"})
_SAME_WORDS = (
    *(("v", "vs", "versus"), ("dr", "doctor"), ("mr", "mister"), ("st", "saint"), ("pt", "part")),
    *(("11", "eleven"), ("12", "twelve"), ("13", "thirteen"), ("and", "n")),
)
_CYRILLIC = re.compile("[\u0400-\u04ff]")
_CYRILLIC_ENDING = re.compile(
    "(?<=...)(?:ами|ями|ого|его|ому|ему|ыми|ими|ах|ях|ов|ев|ом|ем|ам|ям|ои|еи|ых|их|ым|им|[аеиоуыэюяь]{1,2})$"
)
# What stands around a title where it is meant as one.
_OPENING, _CLOSING = frozenset("\"“„‘'*_«‹《〈「『【"), frozenset("\"”“’'*_»›》〉」』】")
_BRACKETS = frozenset("《〈「『【«")
_YEAR_BEHIND = re.compile(rf"\W{{0,3}}({_YEAR})(?!\d)(?!\s*'?s\b)")
_YEAR_BEFORE = re.compile(rf"\b({_YEAR})\b(?!\s*'?s\b)\W*(?:\w+\W+){{0,3}}$")
_CUE = re.compile(
    r"\b(?:seen|saw|(?:re-?)?watch(?:ed|ing)|called|named|titled|finished|(?:how|what) about|"
    r"(?:the|a|new|old|original|first) (?:movie|film|show|series|book|novel|comic|game|album|song|podcast))"
    r"\W+(?:the\s+|an?\s+)?$",
    re.IGNORECASE,
)
_LIKED = re.compile(
    r"\b(?:lov|lik|enjoy|recommend|suggest|tr(?:y|ied)|hat)(?:e|ed|ing)?\W+(?:the\s+|an?\s+)?$", re.I
)
_STOPS = re.compile(r"\s*(?:$|[^\w\s'’&/-]|(?:and|but|or|with|last|yesterday|again|too|recently|already)\b)")
_ENDS_HERE = re.compile(
    r"\s*(?:$|[^\w\s'’&/-]|[-–—]\s|(?:and|but|or|with|last|yesterday|today|tonight|again|when|which|because|"
    r"yet|too|though|already|recently|by|is|was|were|in theaters?|the other|a few|it was|i)\b)",
    re.IGNORECASE,
)
_IS_JUDGED = re.compile(
    r"\s+(?:was\b|is (?:my|one of|the best|a (?:good|great|nice|lovely|brilliant))\b)", re.IGNORECASE
)
# Function words that are no subject: "Up was", "Her was".
_NO_SUBJECTS = frozenset({"up", "down", "out", "over", "off", "away", "her", "him", "us", "them", "me"})
# A capital in front of which this stands is there for another reason than a sentence's beginning.
_MID_SENTENCE = re.compile(r"(?:[^\W\dA-Z_]|\d|[,;])\s*(?:\b(?:[Tt]he|[Aa]n?)\s+)?$")
_WITHIN_A_NAME = re.compile(r"[\s'’·.-]{0,2}")
_SEQUEL = re.compile(
    r"[\s:,-]{1,3}(?:(?:part|chapter|episode|vol(?:ume)?|season)\b\.?\s*)?"
    r"(?:([2-9]|1\d)(?![\d/%.,]?\d|/|%)|(ii|iii|iv|vi|vii|viii|ix)\b)(?!\s*(?:times|days?|weeks?|months?|years?|"
    r"hours?|minutes?|stars?|out of|of|or|more|other|films?|movies?|x|pm|am|hrs?|kids?|people)\b)",
    re.IGNORECASE,
)
_LONGER_DATED = re.compile(
    rf"(?P<rest>(?:[\s:–—'’-]+(?:[A-Z0-9][\w'’]*|of|the|and|in|a|to|for|with|on|from))+)\s*[(\[]{_YEAR}[)\]]"
)
_ANSWERS = frozenset({"it", "up", "her", "us", "here"})
# A word that so many abstracts use in lower case is an everyday word: "heat", "up", "frozen".
_EVERYDAY_SHARE = 0.001
# People misremember a year by this much; remakes are further apart.
_YEARS_OFF = 3
_RARE_LETTERS, _ENOUGH_WORDS, _TYPO_LETTERS, _TYPO_ALONE_LETTERS = 4, 4, 6, 8
# Words of the longest title that is looked up, and of the longest that is looked up by its parts.
_LONGEST, _LONGEST_IN_PARTS = 40, 16
_AROUND = 80


@dataclass(frozen=True)
class Mention:
    """A place where a text names items.

    Attributes
    ----------
    items
        Positions of the items that it may mean: one, or all that share the title when no year tells.
    message
        Number of the message, from 0.
    first, last
        Numbers of the words in the message (`Text.words`).
    """

    items: tuple[int, ...]
    message: int
    first: int
    last: int


class TitleIndex:
    """Finds the titles of a catalog in messages and queries.

    A title counts in any case, spelling of numerals and placing of blanks ("spiderman 2" is "Spider-Man II",
    "walle" is "WALL·E"), without its article, with its year, and with one wrong letter where it is long.
    The distinctive part of a longer title counts where no other title has it ("Stilla 700", "Fury Road"); a
    series does not stand for its parts, nor a part for the series ("Toy Story 2" is not "Toy Story"). A title
    of everyday words ("It", "Heat", "About Time") counts only with evidence: in quotation marks or brackets,
    with its year, capitalised inside a sentence, alone in the message, or behind words such as "i just
    watched". What an everyday word is, lists of what people write in chats and texts and the catalog's own
    abstracts tell, so the index is bound to no domain.

    Parameters
    ----------
    titles
        In the order that positions refer to.
    years
        Of the same items; a year in brackets at the end of a title stands in for None.
    texts
        Abstracts, from which everyday words are counted.
    names
        Names of people and the like: a title inside one ("King" in "Stephen King") is not named by it.
    genres
        Names of genres, which name a title ("Western") only where it is clearly written as one.
    makers
        Creators of each item: what is left of a title that begins with one is a name, too.

    Attributes
    ----------
    ids
        Of the items, where the index was made by `of`.
    """

    def __init__(
        self,
        titles: Sequence[str],
        years: Sequence[int | None] | None = None,
        *,
        texts: Iterable[str] = (),
        names: Iterable[str] = (),
        genres: Iterable[str] = (),
        makers: Sequence[Sequence[str]] | None = None,
    ) -> None:
        given = years if years is not None else [None] * len(titles)
        split = [parse_title(title, year) for title, year in zip(titles, given, strict=True)]
        self._titles, self._years = [title for title, _ in split], [year for _, year in split]
        self.ids: tuple[str, ...] = ()
        self._function, common, ordinary = _everyday_words()
        # In how many texts each word stands in lower case, which tells it from a name, and in any.
        written = [set(re.findall(r"\w+", without_accents(text))) for text in texts]
        lower = Counter(word for words in written for word in words if not word[0].isupper())
        self._frequent = Counter(word for words in written for word in {w.casefold() for w in words})
        # The first need evidence as a title; the others do not tell a part of a title from plain language.
        # In a small catalog two texts with a word are likely those of the item and of its sequel.
        least = max(2.0, _EVERYDAY_SHARE * len(written))
        self._everyday = common | {word for word, count in lower.items() if count > least}
        self._ordinary = self._everyday | ordinary
        genres = set(genres)
        self._genres = {form for name in genres for form in (*phrase_words(name), phrase_key(name))}
        people = [phrase_words(name) for name in set(names) if " " in name.strip()]
        self._people = {"".join(words) for words in people}
        self._people_words = {word for words in people for word in words}
        # Keys of names: full titles, their other spellings, and parts that one title alone has, each with
        # whether it needs no evidence; and the number of words that each name is written in.
        self._whole: dict[str, list[int]] = defaultdict(list)
        self._short: dict[str, list[int]] = defaultdict(list)
        self._parts: dict[str, tuple[int, bool]] = {}
        self._sizes: dict[str, int] = {}
        self._enter(makers if makers is not None else [()] * len(titles))
        self._titled = {*self._whole, *self._short}
        self._known = {*self._titled, *self._parts, *self._people}
        self._longest = min(_LONGEST, max([12, *self._sizes.values()]))

    @staticmethod
    def of(items: Iterable[Item]) -> TitleIndex:
        """Return the index of a catalog's items; made once for those that ask for the same items in a row."""
        return _index_of(tuple(items))

    # -- use ---------------------------------------------------------------------------------------

    def find(self, text: str, *, strict: bool = True) -> list[Mention]:
        """Return the mentions in one text, in its order.

        Parameters
        ----------
        strict
            Whether titles of everyday words need evidence; False takes every run of words that is a title.
        """
        read = Text(text)
        found: list[tuple[Hit, Sequence[int]]] = []
        taken: set[int] = set()
        # Longest first over the whole message, so that a longer title wins from either side.
        hits = sorted(
            read.runs(self._known, longest=self._longest),
            key=lambda hit: (hit.first - hit.last, -len(hit.key), hit.first),
        )
        for hit in hits:
            if taken.isdisjoint(hit.places):
                items = self._named_by(read, hit, strict, taken)
                if items or hit.key in self._people:
                    taken.update(hit.places)
                found.append((hit, items))
        for hit, items in (*self._inflected(read), *self._misspelt(read, taken)):
            if taken.isdisjoint(hit.places):
                taken.update(hit.places)
                found.append((hit, items))
        found.sort(key=lambda pair: pair[0].first)
        return [Mention(tuple(items), 0, hit.first, hit.last) for hit, items in found if items]

    def link(self, messages: Sequence[ChatMessage], *, strict: bool = True) -> list[Mention]:
        """Return all mentions of a dialogue, in its order."""
        return [
            replace(mention, message=number)
            for number, message in enumerate(messages)
            for mention in self.find(message.content or "", strict=strict)
        ]

    def named(self, messages: Sequence[ChatMessage]) -> set[int]:
        """Return the positions of all items that a dialogue names or may mean."""
        return {item for mention in self.link(messages) for item in mention.items}

    def named_ids(self, messages: Sequence[ChatMessage]) -> set[str]:
        """Do `named`, giving ids; of an index that was made by `of`."""
        return {self.ids[item] for item in self.named(messages)}

    def match(self, entry: str) -> tuple[int, ...]:
        """Return the positions of the items whose title the whole of ``entry`` is, with or without a year.

        A year in the entry has to be the item's own or one off, as between festival and cinema; of several
        items, those of that very year are returned, and those without a year where there are none.
        """
        name, year = parse_title(entry)
        words = phrase_words(name)
        key = "".join(words)
        found = self._whole.get(key) or self._short.get(key) or []
        if len(words) > self._sizes.get(key, len(words)) and min(map(len, words)) < 2:
            return ()  # "U p" is not "Up"
        if not key:  # a title of signs only
            found = [i for i, title in enumerate(self._titles) if title == name]
        if year is None:
            return tuple(found)
        return tuple(self._of_year(found, year, 1) or [i for i in found if self._years[i] is None])

    # -- making ------------------------------------------------------------------------------------

    def _enter(self, makers: Sequence[Sequence[str]]) -> None:
        parts: dict[str, dict[int, bool]] = defaultdict(dict)
        for position, title in enumerate(self._titles):
            words = phrase_words(title)
            key = "".join(words)
            if not words:
                continue
            self._whole[key].append(position)
            for form in (words, *_other_spellings(title, words)):
                other = "".join(form)
                self._sizes[other] = max(len(form), self._sizes.get(other, 0))
                if other != key and position not in self._short[other]:
                    self._short[other].append(position)
            for part, sure in self._parts_of(title, words, makers[position]):
                parts["".join(part)][position] = sure
                self._sizes.setdefault("".join(part), len(part))
        # Looked up from now on, which must not make entries.
        self._whole, self._short = dict(self._whole), dict(self._short)
        for key, its in parts.items():
            if len(its) == 1 and not any(key in names for names in (self._whole, self._short, self._people)):
                self._parts[key] = next(iter(its.items()))

    def _parts_of(
        self, title: str, words: list[str], makers: Sequence[str]
    ) -> Iterator[tuple[list[str], bool]]:
        """Yield the runs of words by which people call a longer title, and whether they need no evidence."""
        segments = [phrase_words(part) for part in _SEPARATOR.split(title)]
        names = map(phrase_words, makers)
        segments += [words[len(maker) :] for maker in names if words[: len(maker)] == maker]
        for segment in segments:
            if 0 < len(segment) < len(words):
                sure = self._is_distinctive(segment)
                # A title often begins with its series, or with what people say ("Good Morning, Vietnam").
                if sure or segment != words[: len(segment)] or len(segment) > 2:
                    yield segment, sure
        if is_unspaced(words[0]) or len(words) > _LONGEST_IN_PARTS:
            return
        # Not what a title begins with: "The Dark Knight" is not "The Dark Knight Rises".
        for first in range(2 if words[0] in _ARTICLES else 1, len(words)):
            for last in range(first + 1, len(words)):
                run = words[first : last + 1]
                if self._is_distinctive(run):
                    yield run, True
                elif last == len(words) - 1 and len(run) > 2 and run[0] not in _SMALL:
                    yield run, False

    def _is_distinctive(self, words: Sequence[str]) -> bool:
        if words[0] in _SMALL or words[-1] in _SMALL:
            return False
        if all(map(is_unspaced, words)):
            return len(words) > 2
        return any(
            len(word) >= _RARE_LETTERS
            and word.isalpha()
            and word not in self._ordinary
            and word not in self._people_words
            and self._frequent[word] <= 1
            for word in words
        )

    # -- one place in a message --------------------------------------------------------------------

    def _named_by(self, text: Text, hit: Hit, strict: bool, taken: Collection[int] = ()) -> Sequence[int]:
        """Return the items that a run of words names; none where it is not meant as a title."""
        if not self._is_cut_alike(text, hit):
            return ()
        before, after = text.around(hit, _AROUND)
        whole, short = self._whole.get(hit.key, []), self._short.get(hit.key, [])
        items = whole or short
        # In "Alien, 2001: A Space Odyssey" the figure is another title's.
        year = _YEAR_BEHIND.match(after) if hit.last + 1 not in taken else None
        if not items:
            is_part = self._is_part(text, hit, int(year[1]) if year else None, strict)
            return self._parts[hit.key][:1] if is_part else ()
        if year:
            near = self._of_year(dict.fromkeys([*whole, *short]), int(year[1]), _YEARS_OFF)
            return near or [i for i in items if self._years[i] is None]
        if (strict and not self._is_meant(text, hit, short=not whole)) or _SEQUEL.match(after):
            return ()
        if len(items) > 1 and (earlier := _YEAR_BEFORE.search(before)):
            return [i for i in items if self._years[i] == int(earlier[1])] or items
        return items

    def _of_year(self, items: Iterable[int], year: int, slack: int) -> list[int]:
        """Return the items of a year, or else those nearest to it, at most ``slack`` years off."""
        off = {i: abs(own - year) for i in items if (own := self._years[i]) is not None}
        least = min(off.values(), default=slack + 1)
        return [i for i, distance in off.items() if distance == least <= slack]

    def _is_cut_alike(self, text: Text, hit: Hit) -> bool:
        """Return whether a hit is cut into words as its name may be; "I'm a ma'am" does not name "Mama"."""
        if len(hit.places) <= self._sizes.get(hit.key, len(hit.places)):
            return True
        spans = [text.spans[place] for place in hit.places]
        gaps = (text.plain[end:start] for (_, end), (start, _) in pairwise(spans))
        return all(map(_WITHIN_A_NAME.fullmatch, gaps)) and all(
            end - start > 1 or text.words[place].isdigit()
            for place, (start, end) in zip(hit.places, spans, strict=True)
        )

    def _is_part(self, text: Text, hit: Hit, year: int | None, strict: bool) -> bool:
        if hit.key not in self._parts:
            return False
        item, sure = self._parts[hit.key]
        if year is not None and self._years[item] is not None and not self._of_year([item], year, _YEARS_OFF):
            return False
        if strict and not sure and (len(hit.places) < 2 or not _is_capitalised(text.written(hit))):
            return False
        return not self._is_inside_a_name(text, hit, weak=True, known=phrase_words(self._titles[item]))

    def _is_meant(self, text: Text, hit: Hit, *, short: bool) -> bool:
        """Return whether the words of a title are meant as one, by what they are and how they are written."""
        words = [text.words[place] for place in hit.places]
        before, after = text.around(hit, _AROUND)
        if before[-1:] in _BRACKETS or (before[-1:] in _OPENING and after[:1] in _CLOSING):
            return True
        if longer := _LONGER_DATED.match(after):
            rest = phrase_words(longer["rest"])
            if not any("".join(rest[first:]) in self._titled for first in range(len(rest))):
                return False
        if unspaced := sum(map(is_unspaced, words)):
            return unspaced > 2 or not (before[-1:].isalnum() or after[:1].isalnum())
        content = [word for word in words if word not in self._function and word not in _SMALL]
        if len(words) == len(text.words):
            return bool(content) or len(words) > 2 or words[0].isdigit() or words[0] in _ANSWERS
        if len(words) == 1:
            content = [word for word in content if not word.isdigit()]
            return self._is_one_word_meant(text, hit, short=short, content=bool(content))
        rare = [word for word in content if word not in self._everyday and word not in self._genres]
        if rare and (len(content) > 1 or rare[0] not in self._ordinary):
            return True
        written = text.written(hit)
        if content and (
            len(words) >= _ENOUGH_WORDS
            or (words[0] not in self._function and _ENDS_HERE.match(after) and _CUE.search(before))
            or (rare and hit.first == 0 and written[0].isupper() and _ENDS_HERE.match(after))
        ):
            return True
        if hit.key in self._genres or not _is_capitalised(written):
            return False
        return len([w for w in words if w not in _SMALL]) > 1 or bool(_MID_SENTENCE.search(before))

    def _is_one_word_meant(self, text: Text, hit: Hit, *, short: bool, content: bool) -> bool:
        word, written = text.words[hit.first], text.written(hit)
        before, after = text.around(hit, _AROUND)
        rare = content and word not in self._everyday and word not in self._genres
        if len(written) < 2 or self._is_inside_a_name(text, hit, weak=not rare):
            return False
        if rare and word not in self._ordinary and len(word) >= _RARE_LETTERS + short:
            return True
        inside = written[0].isupper() and bool(_MID_SENTENCE.search(before))
        begins = hit.first == 0 or before.rstrip()[-1:] in ".!?"
        if not content and not word.isdigit():
            # "It", "Her", "Here": written as a name, and the sentence does not go on with it.
            if begins and word in _NO_SUBJECTS and _IS_JUDGED.match(after):
                return True  # "Up was lovely"
            return inside and not written.isupper() and bool(_STOPS.match(after))
        if _ENDS_HERE.match(after) and (_CUE.search(before) or (rare and _LIKED.search(before))):
            return True
        if word in self._genres or not written[0].isupper():
            return False
        if written.isupper():
            # An acronym such as QI, if the message does not shout.
            own = any(self._titles[item].isupper() for item in self._whole.get(hit.key, ()))
            return own and len(re.findall(r"\b[A-Z]{2,}\b", text.plain)) == 1
        if short and not rare:
            return False  # "Comedy" for "The Comedy"
        return inside or (begins and bool(re.match(r"[,.:]\s", after) or _IS_JUDGED.match(after)))

    def _is_inside_a_name(self, text: Text, hit: Hit, *, weak: bool, known: Sequence[str] = ()) -> bool:
        """Return whether a capitalised word next to a hit makes a longer name of both ("Stephen King")."""
        if text.written(hit)[0].islower():
            return False
        for place, own in ((hit.first - 1, hit.first), (hit.last + 1, hit.last)):
            if not 0 <= place < len(text.words) or text.words[place] in known:
                continue
            (_, end), (start, _) = sorted((text.spans[place], text.spans[own]))
            word, folded = text.plain[slice(*text.spans[place])], text.words[place]
            shouts = word.isupper() and len(word) > 1
            if text.plain[end:start] != " " or not word[0].isupper() or word == "I" or shouts:
                continue
            begins = place == 0 or text.around(Hit("", place, place), 3)[0].rstrip()[-1:] in ".!?:"
            if begins and (folded in self._everyday or folded in self._function):
                continue  # its capital only says that a sentence begins
            if weak or folded not in self._everyday:
                return True
        return False

    # -- other endings and near spellings ----------------------------------------------------------

    @cached_property
    def _stems(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = defaultdict(list)
        for position, title in enumerate(self._titles):
            if _CYRILLIC.search(title):
                found["".join(map(_stem, phrase_words(title)))].append(position)
        return {key: items for key, items in found.items() if len(key) > _RARE_LETTERS}

    def _inflected(self, text: Text) -> Iterator[tuple[Hit, Sequence[int]]]:
        """Yield titles whose words have other endings, as Slavic languages give them."""
        if _CYRILLIC.search(text.plain) and self._stems:
            for hit in runs([_stem(word) for word in text.words], self._stems, self._longest):
                yield hit, self._stems[hit.key]

    @cached_property
    def _spellings(self) -> dict[str, list[str]]:
        """Words of titles by what is left of them without one letter."""
        found: dict[str, list[str]] = defaultdict(list)
        for word in {word for title in self._titles for word in phrase_words(title)}:
            if len(word) >= _TYPO_LETTERS and word.isalpha():
                for form in _one_letter_less(word):
                    found[form].append(word)
        return found

    def _misspelt(self, text: Text, taken: set[int]) -> Iterator[tuple[Hit, Sequence[int]]]:
        """Yield titles of which one long word has a letter too many, too few or wrong."""
        for place, word in enumerate(text.words):
            known = word in self._ordinary or word in self._frequent or word in self._people_words
            if known or place in taken or len(word) < _TYPO_LETTERS or not word.isalpha():
                continue
            meant = {right for form in _one_letter_less(word) for right in self._spellings.get(form, ())}
            for right in sorted(meant - {word, word.removesuffix("s"), f"{word}s"}):
                hit = self._with_spelling(text, place, right)
                if hit is not None and (items := self._named_by(text, hit, strict=False)):
                    yield hit, items
                    break

    def _with_spelling(self, text: Text, place: int, right: str) -> Hit | None:
        words = [*text.words[:place], right, *text.words[place + 1 :]]
        start = max(0, place - self._longest)
        nearby = runs(words[start : place + self._longest], self._titled, self._longest)
        hits = [Hit(hit.key, hit.first + start, hit.last + start) for hit in nearby]
        hit = max((h for h in hits if place in h.places), key=lambda h: len(h.places), default=None)
        unclear = len(right) < _TYPO_ALONE_LETTERS or right in self._ordinary or right in self._genres
        return None if hit is None or (len(hit.places) == 1 and unclear) else hit


@lru_cache(maxsize=2)
def _index_of(items: tuple[Item, ...]) -> TitleIndex:
    makers = [item.creators for item in items]
    index = TitleIndex(
        [item.title for item in items],
        [item.year for item in items],
        texts=(item.abstract for item in items),
        names=(name for item, its in zip(items, makers, strict=True) for name in (*its, *item.cast)),
        genres=(genre for item in items for genre in item.genres),
        makers=makers,
    )
    index.ids = tuple(item.id for item in items)
    return index


def _other_spellings(title: str, words: Sequence[str]) -> list[list[str]]:
    """Return a title's other spellings: without article or "Part", with a synonym, in the plural."""
    forms = [list(words)]
    if "+" in title:
        forms.append(phrase_words(title.replace("+", "&")))
    if words[0] in _ARTICLES and len(words) > 1:
        forms.append(list(words[1:]))
    for form in list(forms):
        following = [*form[1:], ""]
        bare = [w for w, n in zip(form, following, strict=True) if not (w in _CHAPTERS and n.isdigit())]
        if 1 < len(bare) < len(form):
            forms.append(bare)
        if len(form) > 1 and form[-1] == "v":
            forms.append([*form[:-1], "5"])
    for form in list(forms):
        for number, word in enumerate(form):
            others = [other for group in _SAME_WORDS if word in group for other in group if other != word]
            forms += [[*form[:number], other, *form[number + 1 :]] for other in others]
    if len(words) > 1 and words[-1].isalpha() and not words[-1].endswith("s"):
        forms.append([*words[:-1], words[-1] + "s"])  # "Moscow Mules for all"
    unspaced = [word for word in words if is_unspaced(word)]
    spaced = [word for word in words if not is_unspaced(word)]
    if len(unspaced) > 1 and len("".join(spaced)) > _RARE_LETTERS:
        forms += [unspaced, spaced]  # a title in two scripts
    return forms


def _is_capitalised(written: str) -> bool:
    """Return whether all words are written with a capital or figure, small ones aside."""
    named = [word for word in re.findall(r"\w+", written) if word.casefold() not in _SMALL]
    return bool(named) and all(word[0].isupper() or word[0].isdigit() for word in named)


@lru_cache(maxsize=1)
def _everyday_words() -> tuple[frozenset[str], ...]:
    """Return words that name nothing, those that chats are full of, and those of texts in lower case."""
    listed = (resources.files("reges_index.dialogue") / "everyday.txt").read_text("utf-8").split("\n\n")
    function, common, ordinary = (frozenset(words.split()) for words in listed)
    return function, common | _ARTICLES, ordinary


def _one_letter_less(word: str) -> set[str]:
    return {word, *(word[:n] + word[n + 1 :] for n in range(len(word)))}


def _stem(word: str) -> str:
    return _CYRILLIC_ENDING.sub("", word) if _CYRILLIC.match(word) else word
