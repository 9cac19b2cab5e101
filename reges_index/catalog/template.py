"""Text templates: what of an item is embedded.

The retriever sees nothing of an item but this text, so a collection records the name of the template that
made its vectors and refuses to be opened with another one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reges_index.catalog.item import Item

__all__ = ["DEFAULT_TEMPLATE", "TextTemplate", "render_default"]

_BYLINES = {
    "director": "Directed by",
    "author": "Written by",
    "writer": "Written by",
    "developer": "Developed by",
    "designer": "Designed by",
    "artist": "Performed by",
    "composer": "Composed by",
}


@dataclass(frozen=True)
class TextTemplate:
    """A named way to turn an item into the text that is embedded.

    Parameters
    ----------
    name
        Name with version, such as ``"reges-item/1"``. Give a new one whenever `render` changes: it is all
        that a collection knows of the template.
    render
        Function from an item to its text.
    """

    name: str
    render: Callable[[Item], str]


def render_default(item: Item) -> str:
    """Title, year, genres, people and abstract, each kind on a line of its own; empty ones are left out.

    Short facts come first because encoders cut long texts at the end (all-MiniLM-L6-v2 after 256 tokens).
    """
    lines = [item.title if item.year is None else f"{item.title} ({item.year})"]
    if item.genres:
        lines.append(f"Genres: {', '.join(item.genres)}")
    if item.creators:
        lines.append(f"{_BYLINES.get(item.creator_role, 'Created by')} {', '.join(item.creators)}")
    if item.cast:
        lines.append(f"Starring {', '.join(item.cast)}")
    if item.abstract:
        lines.append(item.abstract)
    return "\n".join(lines)


DEFAULT_TEMPLATE = TextTemplate(name="reges-item/1", render=render_default)
