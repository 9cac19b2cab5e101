"""The nouns of a domain, so that the paper's prompts speak of books where the items are books."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

__all__ = ["MOVIES", "Domain", "template_hash"]


@dataclass(frozen=True)
class Domain:
    """What an item is called in prompts.

    Parameters
    ----------
    noun, plural
        For example ``Domain("book", "books")``. The default is the paper's: movie, movies.
    """

    noun: str = "movie"
    plural: str = "movies"


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
