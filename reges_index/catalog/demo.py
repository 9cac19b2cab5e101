"""The demo catalogs that ship with the package; their abstracts were written for it."""

from __future__ import annotations

from importlib import resources

from reges_index.catalog.item import Item
from reges_index.catalog.readers import read_items
from reges_index.errors import InputError

__all__ = ["demo_catalog", "demo_catalogs"]


def demo_catalogs() -> list[str]:
    """Names of the demo catalogs, sorted."""
    folder = resources.files("reges_index.catalog") / "demo"
    return sorted(
        entry.name.removesuffix(".jsonl") for entry in folder.iterdir() if entry.name.endswith(".jsonl")
    )


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
