"""Options from a YAML file, with those of the command line on top."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from reges_index.errors import ConfigError, InputError

__all__ = ["read_options"]


def read_options(path: str | Path, known: Collection[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Read options by name; those in ``given`` win.

    Relative paths in the file are relative to the working directory, as on the command line.

    Parameters
    ----------
    known
        Names that may stand in the file.

    Raises
    ------
    InputError
        If the file cannot be read or is no mapping.
    ConfigError
        For an unknown name.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})", hint="check the path") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not valid YAML ({error})") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected keys and values, got {type(values).__name__}")
    unknown = sorted(str(key) for key in values if key not in known)
    if unknown:
        raise ConfigError(f"{path}: unknown key {unknown[0]!r}", hint=f"keys are {', '.join(sorted(known))}")
    return {**values, **given}
