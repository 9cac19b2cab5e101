"""Which titles a dialogue names: exact titles, with care for those that are everyday words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llama_index.core.base.llms.types import ChatMessage

from reges_index.dialogue.text import normalise, one_line

__all__ = ["find_mentions"]

_YEAR_BEHIND = r"\s*\(?\s*(?:19|20)\d\d\b"


def find_mentions(
    messages: Sequence[ChatMessage], titles: Sequence[str], years: Sequence[int | None] | None = None
) -> set[int]:
    """Return the indices of the titles that the messages name.

    A title of several words counts wherever its words stand in a row, in any case. A title of one word
    ("It", "Heat", "Up") counts only where it is written as a name: with a year behind it, in quotation
    marks, or capitalised inside a sentence. A year in brackets behind a title has to be the item's own, so
    that remakes are told apart; without one, all items of that title count.

    Parameters
    ----------
    titles, years
        Of the items that are looked for; ``years`` may hold None, or be None as a whole.
    """
    raw = " \n ".join(one_line(message.content or "") for message in messages)
    words = f" {normalise(raw)} "
    years = years if years is not None else [None] * len(titles)
    return {
        index
        for index, (title, year) in enumerate(zip(titles, years, strict=True))
        if _named(one_line(title), year, raw, words)
    }


def _named(title: str, year: int | None, raw: str, words: str) -> bool:
    name = normalise(title)
    if not name or f" {name} " not in words:
        return False
    dated = re.findall(rf"\b{re.escape(title)}\s*\(\s*((?:19|20)\d\d)\s*\)", raw, re.IGNORECASE)
    if dated and year is not None:
        return str(year) in dated
    if " " in name:
        return True
    escaped = re.escape(title)
    return any(
        re.search(pattern, raw, flags)
        for pattern, flags in (
            (rf"\b{escaped}{_YEAR_BEHIND}", re.IGNORECASE),
            (rf"[\"“‘*_]{escaped}[\"”’*_.,!?]", re.IGNORECASE),
            # Capitalised after a lower-case word or a comma: a name, not the start of a sentence.
            (rf"[a-z0-9,;]\s+{escaped}\b", 0),
        )
        if flags or title[:1].isupper()
    )
