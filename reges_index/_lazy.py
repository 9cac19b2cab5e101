"""Public names of a package, imported from their modules when they are first used (PEP 562)."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

_SHOWN = re.compile(r"^    from (\S+) import (\w+) as \2$", re.MULTILINE)


def lazy_names(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package whose names are loaded on first use.

    Type checkers and editors cannot see such names. They get ordinary imports under ``TYPE_CHECKING``, each
    ``from MODULE import NAME as NAME``; these lines are read here, so that they are the only list. The three
    go into the block's ``else``: a module with a ``__getattr__`` has every name for mypy, also a misspelt
    one.

    Parameters
    ----------
    package
        ``__name__`` of the package. A module of the same name as one of its names would take the name's place
        in the package once it is imported, so there must be none.
    """
    spec = sys.modules[package].__spec__
    source: str = spec.loader.get_source(package)  # type: ignore[union-attr]
    homes = {name: home for home, name in _SHOWN.findall(source)}
    assert not (same := [name for name, home in homes.items() if home == f"{package}.{name}"]), same

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        # Not kept in the package: what replaces a name in its module, such as a test, would else not be seen.
        return getattr(import_module(homes[name]), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return load, names, sorted(homes)
