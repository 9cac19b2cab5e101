"""From free text to a candidate: the paper's way of reading LLM_G's answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from reges_index.dialogue.text import normalise

__all__ = ["match_answer"]

_YEAR = re.compile(r"\s*\((?:19|20)\d\d\)\s*$")
_WORD = re.compile(r"\w+")
_NUMBERING = re.compile(r"^\s*(?:\d{1,3}[.):]|[-*•])\s+")


def match_answer(answer: str, labels: Sequence[str]) -> int | None:
    """Return the index of the candidate that an answer names, or None.

    Tried in this order, and only a single winner counts (equal labels count as the first of them): the
    first non-empty line equals a label; it equals one without its year; the answer contains exactly one
    label as whole words, with its year or else without, where a label within another ("Alien" in "Alien
    Resurrection", "It" in "It Follows") gives way to the longer one.

    Parameters
    ----------
    answer
        What the model wrote.
    labels
        The candidates' names as the prompt showed them.
    """
    line = next((raw.strip() for raw in answer.splitlines() if raw.strip()), "")
    if line in labels:  # also titles without any letter, which have no normal form
        return labels.index(line)
    names = [normalise(label) for label in labels]
    bare = [normalise(_YEAR.sub("", label)) for label in labels]
    for text in (line, _NUMBERING.sub("", line)):
        exact, without_year = normalise(text), normalise(_YEAR.sub("", text))
        if exact and exact in names:
            return names.index(exact)
        if without_year and bare.count(without_year) == 1:
            return bare.index(without_year)
    # As it is written first: "it" in "Heat, it is tense" does not name the film "It".
    for form in (_written, normalise):
        pick = _contained(f" {form(answer)} ", labels, form)
        if pick is not None:
            return pick
    return None


def _written(text: str) -> str:
    return " ".join(_WORD.findall(text))


def _contained(text: str, labels: Sequence[str], form: Callable[[str], str]) -> int | None:
    names = [form(label) for label in labels]
    bare = [form(_YEAR.sub("", label)) for label in labels]
    found = {name for name in bare if name and f" {name} " in text}
    longest = [name for name in found if not any(name != o and f" {name} " in f" {o} " for o in found)]
    if len(longest) != 1:
        return None
    same = [index for index, name in enumerate(bare) if name == longest[0]]
    # Of several years, the one that the answer gives.
    dated = [index for index in same if f" {names[index]} " in text and names[index] != bare[index]]
    chosen = dated or same
    return chosen[0] if len({labels[index] for index in chosen}) == 1 else None
