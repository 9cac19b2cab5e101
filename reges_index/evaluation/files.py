"""JSON files: lines with their numbers, hashes, and writing that is whole or not at all."""

from __future__ import annotations

import codecs
import hashlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reges_index.errors import InputError, StorageError

__all__ = ["json_lines", "json_text", "read_json", "sha256_of", "write_json", "write_text"]


class _NotFinite(Exception):
    """A number that Python reads and JSON does not have."""


def _refused(text: str) -> float:
    raise _NotFinite(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):  # such as 1e999
        raise _NotFinite(text)
    return value


def json_lines(path: str | Path, *, finite: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and object for each line that is not blank.

    Parameters
    ----------
    finite
        Refuse NaN and infinite numbers wherever they stand in a line; Python writes and reads them, though
        JSON has none.

    Raises
    ------
    InputError
        Naming file and line: no such file, not UTF-8, malformed JSON or nested too deeply, a line that is
        no object, or a number that is not finite.
    """
    numbers: dict[str, Any] = {"parse_constant": _refused, "parse_float": _finite} if finite else {}
    path = Path(path)
    number = 0
    try:
        with path.open("rb") as stream:
            for number, raw in enumerate(stream, 1):
                # Windows' editors begin a file with a mark that is no JSON.
                line = (raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw).decode("utf-8")
                if not line.strip():
                    continue
                row = json.loads(line, **numbers)
                if not isinstance(row, dict):
                    raise InputError(
                        f"{path}:{number}: expected a JSON object, got {type(row).__name__}",
                        hint="the format is JSON Lines: one object on each line",
                    )
                yield number, row
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}:{number}: not UTF-8 (byte {error.start} of the line)", hint="convert the file to UTF-8"
        ) from error
    except _NotFinite as error:
        raise InputError(
            f"{path}:{number}: {error} is no number in JSON",
            hint="find out why it is none; where a value is unknown, leave its key out or give null",
        ) from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}:{number}: not valid JSON ({error.msg} at column {error.colno})",
            hint="the last line of a run that was killed may be cut off; remove it or resume the run",
        ) from error
    except RecursionError as error:
        raise InputError(
            f"{path}:{number}: nested too deeply to be read",
            hint="no format here nests more than a few levels",
        ) from error
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file", hint="check the path") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})", hint="check the path") from error


def read_json(path: str | Path) -> dict[str, Any]:
    """Read one JSON object from a file.

    Raises
    ------
    InputError
        If the file is missing, not JSON (NaN is none), nested too deeply, or no object.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text, parse_constant=_refused, parse_float=_finite)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file", hint="check the path") from error
    except _NotFinite as error:
        raise InputError(f"{path}: not valid JSON ({error} is no number in it)") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error
    except RecursionError as error:
        raise InputError(
            f"{path}: nested too deeply to be read", hint="no format here nests more than a few levels"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})", hint="check the path") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 (hex) of a file's bytes, the same as ``sha256sum``."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_text(path: str | Path, text: str) -> Path:
    """Write a file whole or not at all; its folder is made.

    Raises
    ------
    StorageError
        If the folder cannot be written or the disk is full.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise StorageError(
            f"{path}: cannot be written ({error.strerror})", hint="choose another --out, or free some space"
        ) from error
    return path


def json_text(value: Any) -> str:
    """Return JSON with every digit of its numbers; NaN is refused (ValueError), as it is no JSON."""
    return json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def write_json(path: str | Path, value: Any) -> Path:
    """Write `json_text` whole or not at all."""
    return write_text(path, json_text(value))
