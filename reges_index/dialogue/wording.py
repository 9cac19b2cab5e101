"""The nouns of a domain, so that the paper's prompts speak of books where the items are books."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from reges_index.errors import ConfigError

__all__ = ["MOVIES", "Domain", "template_hash"]


@dataclass(frozen=True)
class Domain:
    """What an item is called in prompts.

    Parameters
    ----------
    noun, plural
        For example ``Domain("book", "books")``. The default is the paper's: movie, movies.
    aspects
        What the query expert shall look for in a dialogue, such as ``"author, genre, topics"``. By default
        the paper's (actor, producer, genre, topics) where items have actors, else genre and topics.
    """

    noun: str = "movie"
    plural: str = "movies"
    aspects: str | None = None

    @classmethod
    def parse(cls, text: str) -> Domain:
        """Read ``NOUN`` or ``NOUN,PLURAL``, as on the command line.

        Raises
        ------
        ConfigError
            If there is no noun.
        """
        noun, _, plural = (part.strip() for part in text.partition(","))
        if not noun:
            raise ConfigError("the domain is empty", hint="give a noun, such as book,books")
        return cls(noun, plural or f"{noun}s")

    @property
    def looked_for(self) -> str:
        """What the query expert's prompt says to look for."""
        return self.aspects or (_OF_FILMS if self.noun.casefold() in _WITH_ACTORS else "genre, topics")


_OF_FILMS = "actor, producer, genre, topics"
_WITH_ACTORS = ("movie", "film", "show", "tv show", "series", "play")
MOVIES = Domain()


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
