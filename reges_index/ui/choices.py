"""What a user sets beside the chat, and what there is to set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters

from reges_index.catalog import Item
from reges_index.dialogue import one_line
from reges_index.dialogue.wording import MOVIES, Domain
from reges_index.errors import InputError

_SHORT_TITLE = 40


@dataclass(frozen=True)
class Choices:
    """What one turn obeys.

    Attributes
    ----------
    catalog
        Name of the catalog to recommend from.
    genres
        Any of these; empty allows all.
    year_from, year_to
        Bounds, both included; None is no bound. With a bound, items without a year are left out.
    exclude_mentioned
        Never recommend what the dialogue names.
    """

    catalog: str
    genres: tuple[str, ...] = ()
    year_from: int | None = None
    year_to: int | None = None
    exclude_mentioned: bool = True

    def __post_init__(self) -> None:
        if self.year_from is not None and self.year_to is not None and self.year_from > self.year_to:
            raise InputError(
                f"no year is from {self.year_from} to {self.year_to}", hint="swap the two, or clear one"
            )

    @property
    def filters(self) -> MetadataFilters | None:
        """Return them as LlamaIndex metadata filters; None when nothing is restricted."""
        found: list[MetadataFilter | MetadataFilters] = []
        if self.year_from is not None:
            found.append(MetadataFilter(key="year", value=self.year_from, operator=FilterOperator.GTE))
        if self.year_to is not None:
            found.append(MetadataFilter(key="year", value=self.year_to, operator=FilterOperator.LTE))
        if self.genres:
            found.append(MetadataFilter(key="genres", value=list(self.genres), operator=FilterOperator.ANY))
        return MetadataFilters(filters=found) if found else None


@dataclass(frozen=True)
class Facets:
    """What the items of a catalog can be filtered by.

    Attributes
    ----------
    size
        Number of items.
    first_year, last_year
        None where no item has a year.
    genres
        The most frequent first.
    title
        Of one of its items, for an example of what can be asked.
    """

    size: int
    first_year: int | None
    last_year: int | None
    genres: tuple[str, ...]
    title: str = field(default="", compare=False)

    @classmethod
    def of(cls, items: Iterable[Item]) -> Facets:
        """Collect them from all items of a catalog."""
        size, years, genres, title = 0, set[int](), Counter[str](), ""
        for item in items:
            size += 1
            genres.update(set(item.genres))
            title = title or (item.title if len(item.title) <= _SHORT_TITLE else "")
            if item.year is not None:
                years.add(item.year)
        ordered = sorted(genres, key=lambda name: (-genres[name], name))
        return cls(size, min(years, default=None), max(years, default=None), tuple(ordered), title)

    def examples(self, domain: Domain = MOVIES) -> tuple[str, ...]:
        """Return messages that an empty chat can offer, in the words of the catalog and its domain."""
        # Films are what is assumed where nobody has said what the items are.
        told = domain != MOVIES
        unusual = f"an unusual {domain.noun}" if told else "something unusual"
        overlooked = f"Which {domain.noun}" if told else "Which one"
        some, others = (*self.genres[:2], "", "")[:2]
        made = (  # genres may be no nouns: "easy", "pet-safe"
            f'What do you have under "{some}"?' if some else "",
            f"Something like {one_line(self.title)}." if self.title else "",
            f'{overlooked} under "{others}" do most people overlook?' if others else "",
            f"Surprise me with {unusual}.",
        )
        return tuple(filter(None, made))
