"""The nouns of a domain, so that the paper's prompts speak of books where the items are books."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from reges_index.errors import ConfigError


@dataclass(frozen=True)
class Domain:
    """What an item is called in prompts.

    Parameters
    ----------
    noun, plural
        For example ``Domain("book", "books")``. The default is the paper's: movie, movies.
    aspects
        What the query expert shall look for in a dialogue, such as ``"author, genre, topics"``. By default
        the paper's (actor, producer, genre, topics) where items have actors, else maker, kind and topics.
    """

    noun: str = "movie"
    plural: str = "movies"
    aspects: str | None = None

    @classmethod
    def parse(cls, text: str) -> Domain:
        """Read ``NOUN`` or ``NOUN,PLURAL``, as on the command line; the plural is regular by default.

        Raises
        ------
        ConfigError
            If there is no noun.
        """
        noun, _, plural = (part.strip() for part in text.partition(","))
        if not noun:
            raise ConfigError("the domain is empty", hint="give a noun, such as book,books")
        return cls(noun, plural or plural_of(noun))

    @property
    def looked_for(self) -> str:
        """What the query expert's prompt says to look for."""
        return self.aspects or (_OF_FILMS if self.noun.casefold() in _WITH_ACTORS else _OF_OTHERS)


_OF_FILMS = "actor, producer, genre, topics"
_OF_OTHERS = "maker, kind, topics"
_WITH_ACTORS = ("movie", "film", "tv show", "series")
MOVIES = Domain()


def plural_of(noun: str) -> str:
    """Return the regular English plural: policies, dishes, pieces of furniture.

    >>> plural_of("pair of headphones"), plural_of("policy"), plural_of("watch"), plural_of("journey")
    ('pairs of headphones', 'policies', 'watches', 'journeys')
    """
    head, of, rest = noun.partition(" of ")
    if head.endswith("y") and head[-2:-1] not in tuple("aeiou"):
        head = f"{head[:-1]}ies"
    else:
        head += "es" if head.endswith(("s", "x", "z", "ch", "sh")) else "s"
    return f"{head}{of}{rest}"


def template_hash(*parts: str) -> str:
    """Return a hash over a prompt template and the formats of what is filled into it.

    An adapter is trained for one such combination; its manifest keeps the hash. The domain's nouns are
    filled in later and are not part of it.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8"))
        digest.update(b"\x00")
    return digest.hexdigest()[:16]
