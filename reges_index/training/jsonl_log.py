"""Files of rows that grow while a run works, survive its death and are continued by the next one."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from reges_index.errors import InputError, StorageError
from reges_index.models.files import write_files

__all__ = ["JsonlLog", "claim_output", "left_out_beside", "read_rows"]

logger = logging.getLogger(__name__)


def read_rows(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and object of each line of a JSONL file; blank lines are allowed.

    Raises
    ------
    InputError
        Naming file and line: no such file, not UTF-8, malformed JSON, not an object.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file", hint="check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start})", hint="convert it to UTF-8") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() would split inside JSON strings
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{path}:{number}: not valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}:{number}: expected a JSON object, got {type(row).__name__}")
        yield number, row


class JsonlLog:
    """An append-only JSONL file in which every line is whole.

    Opening it repairs what a killed run may have left: a last line without line break is dropped when it is
    no JSON object, and completed when it is. Appending a row returns once the row is on the disk.

    Parameters
    ----------
    path
        Made, with its folder, when missing.

    Attributes
    ----------
    repaired
        Bytes of a half-written line that were dropped.

    Raises
    ------
    StorageError
        If the file cannot be made or written; a row that did not fit on the disk leaves nothing behind.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.repaired = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise _storage(self.path, error) from error
        try:
            self._repair()
        except BaseException:
            self._file.close()
            raise

    def _repair(self) -> None:
        self._file.seek(0)
        data = self._file.read()
        if not data or data.endswith(b"\n"):
            return
        start = data.rfind(b"\n") + 1
        try:
            whole = isinstance(json.loads(data[start:]), dict)
        except ValueError:  # also a character cut in two
            whole = False
        if whole:
            self._write(b"\n")
        else:
            self.repaired = len(data) - start
            self._file.truncate(start)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row and wait until it is on the disk."""
        self._write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", errors="replace"))

    def _write(self, data: bytes) -> None:
        size = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(data)
            if written != len(data):
                raise OSError(28, "No space left on device")
            os.fsync(self._file.fileno())
        except OSError as error:
            os.ftruncate(self._file.fileno(), size)
            raise _storage(self.path, error) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> JsonlLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def left_out_beside(out: Path) -> Path:
    """Return the file in which what is left out of ``out``, and why, is listed; both together are done."""
    return out.with_name(out.name + ".left-out.jsonl")


def claim_output(out: Path, made_by: Mapping[str, Any], *, newer: Collection[str] = ()) -> None:
    """Note beside ``out`` what writes it, or check that a file there was begun with the same settings.

    Rows of two teachers or two prompts in one file could not be told apart later. Where a file is begun, a
    list of what another one left out is set aside: it says nothing about this one.

    Parameters
    ----------
    out
        The file to be written or continued; the note is ``<out>.run.json``.
    made_by
        Everything that shapes a row.
    newer
        Keys that notes of earlier versions do not have. A file whose note lacks them is taken as it is, with
        a warning, and has them from now on.

    Raises
    ------
    InputError
        If ``out`` is there without a note, or with a different one.
    StorageError
        If the note cannot be written, or the list not be set aside.
    """
    note = out.with_name(out.name + ".run.json")
    wanted = json.loads(json.dumps(made_by))
    if note.exists():
        try:
            found = json.loads(note.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{note}: cannot be read: {error}", hint=f"delete {note} and {out}") from error
        unsaid = [key for key in wanted if key in newer and key not in found]
        different = [
            key for key in {**wanted, **found} if key not in unsaid and wanted.get(key) != found.get(key)
        ]
        if different and out.exists():
            key, left_out = different[0], left_out_beside(out)
            aside = f"; {left_out} is then set aside, not lost" if left_out.exists() else ""
            raise InputError(
                f"{out} was begun with other settings: {key} was {found.get(key)!r}, now {wanted.get(key)!r}",
                hint=f"name another output file, or delete this one and its .run.json{aside}",
            )
        if not different:
            if unsaid:
                logger.warning(
                    "%s, of an earlier version, does not say: %s. What is in %s is taken as made with these",
                    note,
                    ", ".join(f"{key} {wanted[key]!r}" for key in unsaid),
                    out,
                )
                write_whole(note, json.dumps(wanted, indent=2, ensure_ascii=False) + "\n")
            return
    elif out.exists() and out.stat().st_size:
        raise InputError(
            f"{out} is there already and was not written by this command (there is no {note.name})",
            hint="use it as it is in the next step, or name another output file",
        )
    _set_aside(left_out_beside(out))  # before the note: with the note it would count as this file's
    write_whole(note, json.dumps(wanted, indent=2, ensure_ascii=False) + "\n")


def _set_aside(path: Path) -> None:
    if not path.exists():
        return
    number = 1
    while (place := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    try:
        path.replace(place)
    except OSError as error:
        raise _storage(path, error) from error
    logger.warning("%s is of a run with other settings; it is %s now", path, place.name)


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that it is there whole or not at all.

    Raises
    ------
    StorageError
        If it cannot be written; an older version stays.
    """
    try:
        write_files({path: text.encode()})
    except OSError as error:
        raise _storage(path, error) from error


def _storage(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path}: cannot be written ({error.strerror or error})",
        hint="free some space or name another place; the rows written so far are kept",
    )
