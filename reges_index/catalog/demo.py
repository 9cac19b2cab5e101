"""The demo catalogs that ship with the package: small shops of five kinds, with dialogues for each."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from reges_index.catalog.item import Item
from reges_index.catalog.readers import read_items
from reges_index.dialogue import Turn, read_conversation
from reges_index.dialogue.wording import MOVIES, Domain
from reges_index.errors import InputError

__all__ = ["DEMOS", "Demo", "demo_catalog", "demo_catalogs", "demo_dialogue", "demo_dialogues", "demo_domain"]

_FOLDER = Path(__file__).parent / "demo"
_WRITTEN = "Apache-2.0, as the package; "


class Demo(NamedTuple):
    """What is known of a demo catalog besides its items.

    Parameters
    ----------
    domain
        What its items are called.
    prefix
        What the names of its dialogues begin with.
    licence
        Of its texts, and where they come from.
    """

    domain: Domain
    prefix: str
    licence: str


DEMOS: dict[str, Demo] = {
    "books": Demo(
        Domain("book", "books"),
        "books-",
        f"{_WRITTEN}titles, authors and years are facts, the abstracts were written for it",
    ),
    "films": Demo(
        MOVIES, "film-", f"{_WRITTEN}titles, people and years are facts, the abstracts were written for it"
    ),
    "hikinggear": Demo(
        Domain("piece of gear", "pieces of gear"),
        "hikinggear-",
        f"{_WRITTEN}makers and products are invented, all texts were written for it",
    ),
    "houseplants": Demo(
        Domain("house plant", "house plants"),
        "houseplants-",
        f"{_WRITTEN}the texts about known plants and all turns were written for it",
    ),
    "recipes": Demo(
        Domain("recipe", "recipes"), "recipes-", f"{_WRITTEN}the texts about known dishes were written for it"
    ),
}
"""The demo catalogs by name."""


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
    _check("catalog ", name, demo_catalogs())
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
    _check("dialogue ", name, demo_dialogues())
    return read_conversation(_FOLDER / "dialogues" / f"{name}.json")


def demo_domain(name: str) -> Domain:
    """Return what the items of a demo catalog, or of the catalog that a demo dialogue is about, are called.

    Raises
    ------
    InputError
        If there is neither a catalog nor a dialogue of that name.
    """
    for catalog, demo in DEMOS.items():
        if name == catalog or name.startswith(demo.prefix):
            return demo.domain
    raise _unknown("", name, [*DEMOS, *demo_dialogues()])


def _check(kind: str, name: str, names: list[str]) -> None:
    if name not in names:
        raise _unknown(kind, name, names)


def _unknown(kind: str, name: str, names: list[str]) -> InputError:
    return InputError(f"no demo {kind}{name!r}", hint=f"there are: {', '.join(names)}")
