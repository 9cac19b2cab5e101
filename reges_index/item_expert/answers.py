"""From a model's words to candidates: one that an answer names, or a ranking that it lists."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from reges_index.dialogue.text import normalise
from reges_index.models.text import read_text

_YEAR = re.compile(r"\s*\((?:1[89]|20)\d\d\)\s*$")
_WORD = re.compile(r"\w+")
_NUMBERING = re.compile(r"^\s*(?:\d{1,3}[.):]|[-*•])\s+")
# What stands around a name: quotation marks, emphasis, brackets.
_AROUND = " \t\"'`*_“”‘’«»<>[]()"
# What separates the name that an answer begins with from what it says of it; not another name, nor a no.
_BEHIND = re.compile(
    r"""["'`*_”’»]*\s*(?:\([^()]*\))?["'`*_”’»]*"""
    r"""(?!\W*(?:or|and)\b|\s*(?:is|was|are|would|will|does|do|can|could)(?:n['’]t|\s+not)\b"""
    r"""|\s*is\s+(?:out|no|ruled)\b)"""
    r"""\s*(?:$|[-–—:;,.!?|/(]|\b[a-z])"""
)
# What is behind such a word gives reasons, and may name what the seeker liked.
_REASONS = re.compile(
    r"\b(?:because|since|given that|as you|if you|similar to|just like|for fans of)\b", re.IGNORECASE
)
# Words that turn down the name behind them, in the same clause.
_DENIED = re.compile(
    r"(?:\b(?:not|never|no|avoid|skip|except|without|neither|nor|unlike)|n['’]t"
    r"|\b(?:instead of|rather than|other than|anything but|rule out|ruled out))"
    r"(?:\s+(?!(?:but|and|so|then)\b)[\w'’]+){0,4}[\s\"'`*_“‘«]*$",
    re.IGNORECASE,
)
# Words behind a name that turn it down.
_TURNED_DOWN = re.compile(
    r"""["'`*_”’»]*\s*(?:\([^()]*\))?["'`*_”’»]*\s*(?:(?:is|was|would|will|does|do|can|could)\s+)?"""
    r"""(?:\w+n['’]t\b|not\b|(?:is|'s|’s)\s+(?:out|no|ruled out|off the (?:list|table))\b|out\b(?!\s+of))""",
    re.IGNORECASE,
)
# Fields of a JSON answer that hold the choice, and some that talk about it.
_CHOSEN = (
    *("candidate", "title", "name", "item", "movie", "film", "book", "game", "product", "answer"),
    *("choice", "recommendation", "recommended", "selection", "result"),
)
_TALK = ("reason", "explanation", "why", "thought", "analysis", "comment", "rationale", "justification")
_RANKED = ("ranking", "ranked", "order", "candidates", "numbers", "recommendations", "results", "items")
# RankGPT's "[3] > [1]".
_BRACKETED = re.compile(r"\[\s*(\d{1,4})\s*\]")
_NUMBER_LIST = re.compile(r"\d{1,4}\.?(?:\s*(?:[,;>|/]|\s|\band\b|\bthen\b)\s*#?\d{1,4}\.?)*")
_ORDER_IS = re.compile(r"^[^\d:]*\b(?:is|are|be)\b\s*(?=\d|#\d)|^\s*#(?=\d)", re.IGNORECASE)
_LINE_NUMBER = re.compile(
    r"^\W*(?:(?:candidate|rank|place)\s*)?#?(\d{1,4})\b[\s.):\]*-]*(.*)$", re.IGNORECASE
)


@dataclass(frozen=True)
class ReadRanking:
    """A ranking as it was read from a model's answer.

    Attributes
    ----------
    ranked
        Indices of candidates, best first, each once.
    outside
        How many numbers or names belong to no candidate.
    twice
        How many came a second time.
    """

    ranked: tuple[int, ...]
    outside: int = 0
    twice: int = 0

    @classmethod
    def of(cls, found: Sequence[int | None]) -> ReadRanking:
        """Build it from what an answer lists; None stands for no candidate."""
        ranked = list(dict.fromkeys(index for index in found if index is not None))
        outside = sum(index is None for index in found)
        return cls(tuple(ranked), outside, len(found) - outside - len(ranked))


def match_answer(answer: str, labels: Sequence[str]) -> int | None:
    """Return the index of the candidate that an answer names, or None.

    Tried in this order, and only a single winner counts (equal labels count as the first of them): the whole
    answer, or its first line, is a label; a JSON value is one; the answer begins with a label and goes on to
    speak of it; the answer contains exactly one label as whole words that it does not turn down ("not Heat"),
    where a label within another ("Alien" in "Alien Resurrection", "It" in "It Follows") gives way to the
    longer one. Each with the label's year or without.

    Parameters
    ----------
    answer
        What the model wrote.
    labels
        The candidates' names as the prompt showed them.
    """
    said = read_text(answer).text
    for line in map(_first_line, (answer, said)):
        if line in labels:  # also titles without any letter, which have no normal form
            return labels.index(line)
    for value in _json_values(said):
        for name in _names_of(value):
            if (pick := _by_name(name, labels)) is not None or (pick := _numbered(name, labels)) is not None:
                return pick
        return None
    for read in (_by_name, _begun_with, _numbered):
        if (pick := read(_first_line(said), labels)) is not None:
            return pick
    # As it is written first: "it" in "Heat, it is tense" does not name the film "It".
    for text in dict.fromkeys((_REASONS.split(said)[0], said)):
        for form in (_written, normalise):
            if (pick := _contained(text, labels, form)) is not None:
                return pick
    return None


def read_ranking(answer: str, labels: Sequence[str]) -> ReadRanking:
    """Read a ranking: JSON, "3, 1, 2", "[3] > [1] > [2]", or one candidate a line by number or by name.

    Parameters
    ----------
    answer
        What the model wrote.
    labels
        The candidates' names; their numbers are their places from 1.
    """
    said = read_text(answer).text
    for value in _json_values(said):
        listed = next(iter(_lists_in(value)), None)
        if listed is not None:
            return read_list(listed, labels)
    if len(bracketed := _BRACKETED.findall(said)) > 1:
        return ReadRanking.of([_by_number(number, len(labels)) for number in bracketed])
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    # A line of numbers only, whatever is announced before it.
    for line in lines:
        if len(lines) > 1 and re.fullmatch(r"\d{1,4}[.)]\s*\d{1,4}\.?", line):
            continue  # a place and the number on it
        listed_text = _ORDER_IS.sub("", line.rpartition(":")[2]).strip(_AROUND + ".")
        numbers = re.findall(r"\d+", listed_text)
        if _NUMBER_LIST.fullmatch(listed_text) and (len(numbers) > 1 or len(lines) == 1):
            return read_list(numbers, labels)
    found = [index for line in lines for index in _in_line(line, labels)]
    if len(lines) == 1 and len(named := _in_order(said, labels)) > 1:
        return ReadRanking.of(named)
    if not any(index is not None for index in found):
        pick = match_answer(answer, labels)
        return ReadRanking((pick,) if pick is not None else (), outside=len(found))
    return ReadRanking.of(found)


def read_list(listed: Sequence[Any], labels: Sequence[str]) -> ReadRanking:
    """Read a list whose entries are candidates' numbers or names, or objects that hold one."""
    return ReadRanking.of([_candidate_in(entry, labels) for entry in listed])


def _by_number(number: Any, size: int) -> int | None:
    found = re.search(r"\d+", str(number)) if not isinstance(number, bool) else None
    place = int(found[0]) if found else 0
    return place - 1 if 1 <= place <= size else None


def _numbered(text: str, labels: Sequence[str]) -> int | None:
    """Return the candidate that a text names by its number alone: "3", "#3", "[3]", "Candidate 3"."""
    found = re.fullmatch(r"\W*(?:(?:candidate|option|number|item)\W*)?(\d{1,4})\W*", text, re.IGNORECASE)
    return _by_number(found[1], len(labels)) if found else None


def _candidate_in(entry: Any, labels: Sequence[str]) -> int | None:
    """Read an entry of a JSON list: a number, a name, or an object that holds one."""
    if isinstance(entry, dict):
        values = [entry[key] for key in ("number", "rank_number", "id", "index", *_CHOSEN) if key in entry]
        found = (_candidate_in(value, labels) for value in values)
        return next((index for index in found if index is not None), None)
    text = str(entry).strip()
    if re.fullmatch(r"\W*(?:candidate\W*)?\d{1,4}\W*", text, re.IGNORECASE):
        place = _by_number(text, len(labels))
        return place if place is not None else _by_name(text, labels)  # a title may be a number too
    if (pick := _by_name(text, labels)) is not None:
        return pick
    return next(iter(_in_line(text, labels)), None)


def _in_line(line: str, labels: Sequence[str]) -> list[int | None]:
    """Read a line of a list: "7", "1. 7", "1. Alien", "7. Alien" or "Alien"; what is prose gives nothing."""
    numbered = _LINE_NUMBER.match(line)
    if numbered is not None and not numbered[2].strip():
        place = _by_number(numbered[1], len(labels))
        return [place if place is not None else _by_name(line, labels)]
    if (pick := _by_name(line, labels)) is not None:
        return [pick]
    if numbered is not None:
        rest = numbered[2].strip()
        for read in (_by_name, _begun_with):
            if (pick := read(rest, labels)) is not None:
                return [pick]
        inner = re.fullmatch(r"\W*(?:candidate\W*)?(\d{1,4})\W*(?:\(.*\))?\W*", rest, re.IGNORECASE)
        if inner is not None:
            return [_by_number(inner[1], len(labels))]
        return [None]
    pick = _begun_with(line, labels)
    return [] if pick is None else [pick]


def _in_order(said: str, labels: Sequence[str]) -> list[int]:
    """Return the candidates that a text names, in the order in which it does."""
    of: dict[str, int] = {}
    bare = [_YEAR.sub("", label) for label in labels]
    for index, label in enumerate(labels):
        of.setdefault(label, index)
        if bare.count(bare[index]) == 1:
            of.setdefault(bare[index], index)
    names = sorted((name for name in of if name), key=len, reverse=True)
    pattern = rf"(?<!\w)(?:{'|'.join(map(re.escape, names))})(?!\w)"
    return [of[found] for found in re.findall(pattern, said)] if names else []


def _json_values(text: str) -> Iterator[Any]:
    """Yield the JSON object or array in a text, if there is one."""
    decoder = json.JSONDecoder()
    for start in re.finditer(r"[{\[]", text):
        try:
            value, _ = decoder.raw_decode(text, start.start())
        except ValueError:
            continue
        # "[3]" alone is no JSON list but RankGPT's way of writing a number.
        alone = isinstance(value, list) and len(value) < 2 and not any(isinstance(v, dict) for v in value)
        if isinstance(value, (dict, list)) and not alone:
            yield value
            return


def _lists_in(value: Any) -> Iterator[list[Any]]:
    if isinstance(value, list):
        yield value
    elif isinstance(value, dict):
        named = [value[key] for key in value if key.lower() in _RANKED]
        yield from (inner for inner in [*named, *value.values()] if isinstance(inner, list))


def _names_of(value: Any) -> Iterator[str]:
    """Yield the names that a JSON answer may mean, the likeliest first."""
    if isinstance(value, list):
        for entry in value[:1]:
            yield from _names_of(entry)
    elif isinstance(value, dict):
        fields = {str(key).lower(): inner for key, inner in value.items()}
        keys = [key for key in _CHOSEN if key in fields]
        keys += [key for key in fields if key not in keys and not any(word in key for word in _TALK)]
        for key in keys:
            yield from _names_of(fields[key])
    elif isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        yield str(value)


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _forms(labels: Sequence[str]) -> tuple[list[str], list[str]]:
    return [normalise(label) for label in labels], [normalise(_YEAR.sub("", label)) for label in labels]


def _by_name(text: str, labels: Sequence[str]) -> int | None:
    """Return the candidate whose label the text is, but for numbering, marks around it and the year."""
    if text in labels:
        return labels.index(text)
    names, bare = _forms(labels)
    for form in (text, _NUMBERING.sub("", text)):
        exact, without_year = normalise(form), normalise(_YEAR.sub("", form.strip(" *_\"'`.")))
        if exact and exact in names:
            return names.index(exact)
        if without_year and bare.count(without_year) == 1:
            return bare.index(without_year)
    return None


def _begun_with(line: str, labels: Sequence[str]) -> int | None:
    """Return the candidate whose label a line begins with, before it goes on to speak of it."""
    text = _NUMBERING.sub("", line).lstrip(_AROUND)
    found: dict[str, int] = {}
    for index, label in enumerate(labels):
        for name in dict.fromkeys((label, _YEAR.sub("", label))):
            if name and text.casefold().startswith(name.casefold()) and _BEHIND.match(text[len(name) :]):
                found.setdefault(name, index)
    if not found:
        return None
    longest = max(found, key=len)
    same = {label for label in labels if _YEAR.sub("", label) == longest}
    # Of several with that title and other years none is named, unless the year is.
    return found[longest] if longest in labels or len(same) == 1 else None


def _written(text: str) -> str:
    return " ".join(_WORD.findall(text))


def _contained(said: str, labels: Sequence[str], form: Callable[[str], str]) -> int | None:
    names = [form(label) for label in labels]
    bare = [form(_YEAR.sub("", label)) for label in labels]
    clauses = [f" {form(clause)} " for clause in _without_denied(said, labels)]
    text = " ".join(clauses)
    found = {name for name in bare if name and any(f" {name} " in clause for clause in clauses)}
    longest = [name for name in found if not any(name != o and f" {name} " in f" {o} " for o in found)]
    if len(longest) != 1:
        return None
    same = [index for index, name in enumerate(bare) if name == longest[0]]
    # Of several years, the one that the answer gives.
    dated = [index for index in same if f" {names[index]} " in text and names[index] != bare[index]]
    chosen = dated or same
    return chosen[0] if len({labels[index] for index in chosen}) == 1 else None


def _without_denied(said: str, labels: Sequence[str]) -> list[str]:
    """Return an answer in pieces, without the names that it turns down."""
    names = sorted({_YEAR.sub("", label) for label in labels} - {""}, key=len, reverse=True)
    if not names or not re.search(r"\w", said):
        return [said]
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, names))})(?!\w)", re.IGNORECASE)
    pieces: list[str] = []
    start = 0
    for found in pattern.finditer(said):
        if _DENIED.search(said[: found.start()]) or _TURNED_DOWN.match(said, found.end()):
            pieces.append(said[start : found.start()])
            start = found.end()
    return [*pieces, said[start:]]
