"""The demo catalogs that ship with the package; their abstracts were written for it."""

from __future__ import annotations

from importlib import resources

from reges_index.catalog.item import Item
from reges_index.catalog.readers import read_items
from reges_index.dialogue import Turn, read_conversation
from reges_index.errors import InputError

__all__ = ["demo_catalog", "demo_catalogs", "demo_dialogue", "demo_dialogues"]


def demo_catalogs() -> list[str]:
    """Names of the demo catalogs, sorted."""
    folder = resources.files("reges_index.catalog") / "demo"
    files = [entry.name for entry in folder.iterdir() if entry.name.endswith(".jsonl")]
    return sorted(name.removesuffix(".jsonl") for name in files if not name.endswith("_turns.jsonl"))


def demo_catalog(name: str = "films") -> list[Item]:
    """Read a demo catalog.

    Parameters
    ----------
    name
        "films" or "books".

    Raises
    ------
    InputError
        If there is no such catalog.
    """
    names = demo_catalogs()
    if name not in names:
        raise InputError(f"no demo catalog {name!r}", hint=f"there are: {', '.join(names)}")
    source = resources.files("reges_index.catalog") / "demo" / f"{name}.jsonl"
    with resources.as_file(source) as path:
        return read_items(path)


def demo_dialogues() -> list[str]:
    """Names of the demo dialogues, sorted."""
    folder = resources.files("reges_index.catalog") / "demo" / "dialogues"
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir())


def demo_dialogue(name: str = "film-thriller") -> Turn:
    """Read a demo dialogue.

    Raises
    ------
    InputError
        If there is no such dialogue.
    """
    names = demo_dialogues()
    if name not in names:
        raise InputError(f"no demo dialogue {name!r}", hint=f"there are: {', '.join(names)}")
    source = resources.files("reges_index.catalog") / "demo" / "dialogues" / f"{name}.json"
    with resources.as_file(source) as path:
        return read_conversation(path)
