"""Public names of a package, imported from their modules when they are first used (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package whose names are loaded on first use.

    Type checkers and editors cannot see such names. They get ordinary imports under ``TYPE_CHECKING``, and
    the three from here go into its ``else``: a module with a ``__getattr__`` has every name for mypy, also a
    misspelt one.

    Parameters
    ----------
    package
        ``__name__`` of the package.
    homes
        Public name -> the module that defines it, relative to the package. A module of the same name would
        take the name's place in the package once it is imported, so there must be none.
    """
    assert not (same := [name for name, home in homes.items() if name == home]), same

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        # Not kept in the package: what replaces a name in its module, such as a test, would else not be seen.
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return load, names, sorted(homes)
