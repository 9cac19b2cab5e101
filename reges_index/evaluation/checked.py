"""Settings that come from YAML or from callers, checked by pydantic against their types and bounds."""

from __future__ import annotations

import os
from functools import cache
from typing import Annotated, Any, TypeAlias, get_type_hints

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from reges_index.errors import ConfigError

__all__ = ["Count", "Level", "PathText", "Seed", "check_fields"]

Count: TypeAlias = Annotated[int, Field(ge=1)]
Seed: TypeAlias = Annotated[int, Field(ge=0)]
Level: TypeAlias = Annotated[float, Field(gt=0, lt=1)]
PathText: TypeAlias = Annotated[
    str, BeforeValidator(lambda path: os.fspath(path) if isinstance(path, os.PathLike) else path)
]
"""A path or an address as text; path objects are taken too."""


@cache
def _adapters(kind: type) -> dict[str, TypeAdapter[Any]]:
    return {name: TypeAdapter(hint) for name, hint in get_type_hints(kind, include_extras=True).items()}


def check_fields(settings: Any) -> None:
    """Check a dataclass's fields against their annotations and keep what pydantic makes of them.

    For its ``__post_init__``; the class may be frozen. Numbers may be given as text, as YAML does at times.

    Raises
    ------
    ConfigError
        Naming the field, its value and what is wrong with it.
    """
    kind: Any = type(settings)
    for name, adapter in _adapters(kind).items():
        given = getattr(settings, name)
        try:
            value = adapter.validate_python(given)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in (name, *first["loc"]))
            reason = first["msg"].removeprefix("Value error, ")
            raise ConfigError(
                f"{place}={first['input']!r}: {reason[0].lower()}{reason[1:]}",
                hint=f"correct {name}, on the command line or in the YAML file",
            ) from error
        object.__setattr__(settings, name, value)
