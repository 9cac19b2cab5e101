"""What the user turns down: "no mushrooms", "nothing with ghosts", "I hate war films", "nothing too sad"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from llama_index.core.base.llms.types import ChatMessage, MessageRole

from reges_index.dialogue.text import one_line, phrase_words, stem

if TYPE_CHECKING:
    from reges_index.catalog.item import Item

# Only where a clause begins so and says no more: "I have no car" refuses nothing.
_REFUSED = re.compile(
    r"(?:^|[.,;:!?]\s*|\b(?:but|and|please|or|with)\s+)"
    r"(?:no(?: more)?|without(?: any)?|nothing (?:with|from|by)|(?:not|nothing) (?P<degree>too|so|very)|"
    r"not an?|(?:i |we |she |he |they )?"
    r"(?:hates?|dislikes?|can['’]?t stand|(?:do|does)(?:n['’]?t| not) (?:like|eat|want)|"
    r"(?:am |is |are )?(?:sick|tired) of))\s+"
    r"(?P<kinds>(?:[\w'’-]+\s*){1,3}(?:(?:,|\b(?:or|no)\b)\s*(?:[\w'’-]+\s*){1,2})*?)"
    r"(?=$|[.,;:!?]|\b(?:please|though|tho|either|but|and|so)\b)",
    re.IGNORECASE,
)
_EACH = re.compile(r",|\b(?:or|no)\b", re.IGNORECASE)
# "caffeine-free" is what "no caffeine" asks for.
_FREE_OF = re.compile(r"\w+[- ]free\b|\b(?:low|non|no|without)[- ]\w+", re.IGNORECASE)
_EMPTY = frozenset(
    {"any", "more", "other", "that", "this", "the", "one", "ones", "thing", "things", "stuff", "please"}
    | {"and", "but", "hmm"}
    | {"film", "films", "movie", "movies", "book", "books", "recipe", "recipes", "too", "very", "really"}
)
_SHORTEST = 3


def refused_kinds(dialogue: Sequence[ChatMessage]) -> list[frozenset[str]]:
    """Return the words, as stems, of each kind that the user turns down and has not asked for since."""
    refused: list[frozenset[str]] = []
    for message in dialogue:
        if message.role == MessageRole.USER:
            said = one_line(message.content or "")
            wanted = _stems([_REFUSED.sub(" ", said)])
            # "Nothing too long" is a matter of degree, and bars no kind.
            clauses = [found["kinds"] for found in _REFUSED.finditer(said) if not found["degree"]]
            kinds = (_stems([part]) for clause in clauses for part in _EACH.split(clause))
            refused = [kind for kind in refused if not kind <= wanted] + [kind for kind in kinds if kind]
    return refused


def only_refuses(said: str) -> bool:
    """Return whether a message turns something down and says nothing else: "no horror, please"."""
    left, clauses = _REFUSED.subn(" ", said)
    return bool(clauses) and not _stems([left])


def is_refused(item: Item, kinds: Sequence[frozenset[str]]) -> bool:
    """Return whether title, genres or makers of an item say that it is of one of the kinds."""
    if not kinds:
        return False
    makers = (name for names in item.makers.values() for name in names)
    told = _stems(_FREE_OF.sub(" ", text) for text in (item.title, *item.genres, *makers))
    return any(kind <= told for kind in kinds)


def _stems(texts: Iterable[str]) -> frozenset[str]:
    words = {word for text in texts for word in phrase_words(text)} - _EMPTY
    return frozenset(stem(word) for word in words if len(word) >= _SHORTEST)
