"""The query in what a model wrote: without labels, announcements and quotation marks around it."""

from __future__ import annotations

import json
import re

from reges_index.dialogue import one_line
from reges_index.models.text import spoken

# What may stand between a colon and the query. An opening quotation mark is the query's: it belongs to the
# one at its end.
_GAP = r"[^\w\"'“‘`(]*"
_NAME = r"(?:search |natural[- ]language )*query\W*:"
_LABEL = re.compile(rf"^\W*{_NAME}{_GAP}(?=\S|$)", re.IGNORECASE)
# "Sure! Here's a query: ..." on the query's own line. It has to speak of a query: many titles have a colon.
_ANNOUNCED = re.compile(
    r"^\W*(?:(?:sure|certainly|of course|absolutely|okay|ok)(?: thing)?\s*[!.,:]\s*)?"
    rf"(?:(?:here(?:['’]?s| is)|this is)\b[^:.!?]*\bquery\b[^:.!?]*:{_GAP}(?=\S)|(?={_NAME}))",
    re.IGNORECASE,
)
# What a list or a quotation puts before a line; of numbers only the first, since "2. Weltkrieg" is a query.
_BULLET = re.compile(r"^\s*(?:[-*•>]|1[.)])\s+(?=\S)")
# Pairs that a model puts around a whole query.
_WRAPPERS = (("**", "**"), ('"', '"'), ("'", "'"), ("`", "`"), ("“", "”"), ("‘", "’"), ("*", "*"), ("_", "_"))


def clean_query(text: str) -> str:
    r"""Return the query in a model's answer: its first line, without label or quotation marks around it.

    What the model thought, and what it has put around its answer, is dropped first (`models.text`). A line
    that is labelled as the query goes before other lines.

    Examples
    --------
    >>> clean_query('Here is a query:\n\nSearch query: "slow thrillers like \'Heat\'"')
    "slow thrillers like 'Heat'"
    """
    said = spoken(text)
    spoken_lines = [_unwrapped(one_line(line)) for line in (_in_json(said) or said).splitlines()]
    labelled = [
        line for line in spoken_lines if _LABEL.match(line) and re.search(r"\w", _LABEL.sub("", line))
    ]
    lines = [_unwrapped(_unlabelled(line)) for line in labelled[:1] or spoken_lines]
    written = [line for line in lines if re.search(r"\w", line)]
    # A line that ends in a colon announces the query, unless nothing follows.
    return next((line for line in written if not line.endswith(":")), written[0] if written else "")


def _in_json(said: str) -> str:
    """Return the query of an answer that is JSON: the first text in it, one that is named a query first."""
    if said[:1] not in ("{", "["):
        return ""
    try:
        found = json.loads(said)
    except (ValueError, RecursionError):
        return ""
    if isinstance(found, dict):
        named = [value for key, value in found.items() if "query" in key.lower()]
        found = [*named, *found.values()]
    return next((value for value in found if isinstance(value, str) and value.strip()), "")


def _unlabelled(line: str) -> str:
    return _LABEL.sub("", _ANNOUNCED.sub("", _BULLET.sub("", line)))


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
