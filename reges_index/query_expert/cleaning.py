"""The query in what a model wrote: without labels, announcements and quotation marks around it."""

from __future__ import annotations

import re

from reges_index.dialogue import one_line

__all__ = ["clean_query"]

_LABEL = re.compile(r"^\W*(?:search |natural[- ]language )*query\W*:\W*(?=[\w\"'“‘(]|$)", re.IGNORECASE)
# Pairs that a model puts around a whole query.
_WRAPPERS = (('"', '"'), ("'", "'"), ("`", "`"), ("“", "”"), ("‘", "’"), ("*", "*"), ("_", "_"))


def clean_query(text: str) -> str:
    r"""Return the query in a model's answer: its first line, without label or quotation marks around it.

    Examples
    --------
    >>> clean_query('Here is a query:\n\nSearch query: "slow thrillers like \'Heat\'"')
    "slow thrillers like 'Heat'"
    """
    lines = [_unwrapped(_LABEL.sub("", _unwrapped(one_line(line)))) for line in text.splitlines()]
    written = [line for line in lines if re.search(r"\w", line)]
    # A line that ends in a colon announces the query, unless nothing follows.
    return next((line for line in written if not line.endswith(":")), written[0] if written else "")


def _unwrapped(line: str) -> str:
    """Take off quotation marks that enclose the whole line, or that have lost their partner."""
    line = line.strip()
    for opening, closing in _WRAPPERS:
        inner = line.removeprefix(opening).removesuffix(closing)
        if len(inner) == len(line) or opening in inner or closing in inner:
            continue
        # An apostrophe at the end of a word is no quotation mark.
        if opening == "'" and not (line.startswith(opening) and line.endswith(closing)):
            continue
        return _unwrapped(inner)
    return line
