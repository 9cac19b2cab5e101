"""From free text to a candidate: the paper's way of reading LLM_G's answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from reges_index.dialogue.text import normalise

__all__ = ["match_answer"]

_YEAR = re.compile(r"\s*\((?:19|20)\d\d\)\s*$")
_NUMBERING = re.compile(r"^\s*(?:\d{1,3}[.):]|[-*•])\s+")


def match_answer(answer: str, labels: Sequence[str]) -> int | None:
    """Return the index of the candidate that an answer names, or None.

    Tried in this order, and only a single winner counts (equal labels count as the first of them): the
    first non-empty line equals a label; it equals one without its year; the answer contains exactly one
    label as whole words, where a label within another ("Alien" in "Aliens", "It" in "It Follows") gives
    way to the longer one.

    Parameters
    ----------
    answer
        What the model wrote.
    labels
        The candidates' names as the prompt showed them.
    """
    line = next((raw for raw in answer.splitlines() if raw.strip()), "")
    line = _NUMBERING.sub("", line)
    exact = normalise(line)
    if not exact:
        return None
    names = [normalise(label) for label in labels]
    if exact in names:
        return names.index(exact)
    bare = [normalise(_YEAR.sub("", label)) for label in labels]
    without_year = normalise(_YEAR.sub("", line))
    if bare.count(without_year) == 1:
        return bare.index(without_year)
    text = f" {normalise(answer)} "
    found = {name for name in bare if name and f" {name} " in text}
    longest = [name for name in found if not any(name != o and f" {name} " in f" {o} " for o in found)]
    if len(longest) == 1 and bare.count(longest[0]) == 1:
        return bare.index(longest[0])
    return None
