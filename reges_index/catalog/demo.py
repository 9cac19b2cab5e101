"""The demo catalogs that ship with the package: small shops of five kinds, with dialogues for each."""

from __future__ import annotations

from pathlib import Path

from reges_index.catalog.item import Item
from reges_index.catalog.readers import read_items
from reges_index.dialogue import Turn, read_conversation
from reges_index.dialogue.wording import MOVIES, Domain
from reges_index.errors import InputError

_FOLDER = Path(__file__).parent / "demo"

DEMOS: dict[str, Domain] = {
    "books": Domain("book", "books"),
    "films": MOVIES,
    "hikinggear": Domain("piece of gear", "pieces of gear"),
    "houseplants": Domain("house plant", "house plants"),
    "recipes": Domain("recipe", "recipes"),
}
"""What the items of each demo catalog are called; demo/LICENCE.md says where their texts come from."""


def demo_catalogs() -> list[str]:
    """Names of the demo catalogs, sorted."""
    return sorted(DEMOS)


def demo_catalog(name: str = "films") -> list[Item]:
    """Read a demo catalog.

    Parameters
    ----------
    name
        "books", "films", "hikinggear", "houseplants" or "recipes".

    Raises
    ------
    InputError
        If there is no such catalog.
    """
    if name not in DEMOS:
        raise _unknown("catalog ", name, demo_catalogs())
    return read_items(_FOLDER / f"{name}.jsonl")


def demo_dialogues() -> list[str]:
    """Names of the demo dialogues, sorted."""
    return sorted(path.stem for path in (_FOLDER / "dialogues").iterdir())


def demo_dialogue(name: str = "film-thriller") -> Turn:
    """Read a demo dialogue.

    Raises
    ------
    InputError
        If there is no such dialogue.
    """
    if name not in demo_dialogues():
        raise _unknown("dialogue ", name, demo_dialogues())
    return read_conversation(_FOLDER / "dialogues" / f"{name}.json")


def demo_domain(name: str) -> Domain:
    """Return what the items of a demo catalog, or of the catalog that a demo dialogue is about, are called.

    Raises
    ------
    InputError
        If there is neither a catalog nor a dialogue of that name.
    """
    kind = name.partition("-")[0]  # dialogues are called after their catalog: books-fantasy, film-thriller
    for catalog, domain in DEMOS.items():
        if kind in (catalog, catalog.removesuffix("s")):
            return domain
    raise _unknown("", name, [*DEMOS, *demo_dialogues()])


def _unknown(kind: str, name: str, names: list[str]) -> InputError:
    return InputError(f"no demo {kind}{name!r}", hint=f"there are: {', '.join(names)}")
