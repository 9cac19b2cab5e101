"""The ground floor of everything that is read from and written to files.

Files are written whole or not at all, JSON Lines are read with their line numbers, a run that takes hours
writes into a `RunLog` that a killed run goes on with, settings are read from YAML into pydantic models, and
content is told apart by its SHA-256.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from reges_index.errors import ConfigError, InputError, StorageError, meant

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

    ModelT = TypeVar("ModelT", bound=BaseModel)

logger = logging.getLogger(__name__)

_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_FREE_SPACE = "free some space or name another place; what was there before is as it was"


# -- whole writes --------------------------------------------------------------------------------------------


def unwritable(path: Path, error: OSError, hint: str = _FREE_SPACE) -> StorageError:
    """Return the error for a place that cannot be written."""
    return StorageError(f"{path} cannot be written ({error.strerror or error})", hint=hint)


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write files beside their places, all of them, and then put them there in the order that is given.

    A full disk or a kill while they are written leaves the older ones as they were. Folders are made.

    Raises
    ------
    StorageError
        If one cannot be written.
    """
    waiting = {path: path.with_name(f".{path.name}.{uuid4().hex[:8]}.partial") for path in files}
    path = Path()
    try:
        for path, beside in waiting.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as stream:
                stream.write(files[path])
                stream.flush()
                os.fsync(stream.fileno())
        for path, beside in waiting.items():
            beside.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        for beside in waiting.values():
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> Path:
    """Write a text file whole or not at all; its folder is made.

    Raises
    ------
    StorageError
        If it cannot be written; an older version stays.
    """
    write_files({Path(path): text.encode("utf-8")})
    return Path(path)


def json_text(value: Any) -> str:
    """Return JSON with every digit of its numbers; NaN is refused (ValueError), as it is no JSON."""
    return json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def write_json(path: str | Path, value: Any) -> Path:
    """Write `json_text` whole or not at all."""
    return write_text(path, json_text(value))


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes ``target`` when the block ends well, and vanishes otherwise.

    An older ``target`` is replaced. Files are flushed to the disk first, so a power cut leaves the old
    folder or the new one; one that a killed run had moved out of the way, and nothing put in its place, is
    moved back.

    Raises
    ------
    StorageError
        If the disk is full or cannot be written; ``target`` is then as it was.
    """
    old = target.with_name(f".{target.name}-old")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if old.exists() and not target.exists():
            old.replace(target)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise _unwritable_folder(target, old, error) from error
    try:
        yield work
        for file in work.rglob("*"):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        work.chmod(target.parent.stat().st_mode & 0o777)
        _put_in_place(work, target, old)
    except OSError as error:
        raise _unwritable_folder(target, old, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _put_in_place(work: Path, target: Path, old: Path) -> None:
    shutil.rmtree(old, ignore_errors=True)
    try:
        if target.exists():
            target.replace(old)
        work.replace(target)
    except BaseException:
        if old.exists() and not target.exists():
            with contextlib.suppress(OSError):  # the first error is the one to tell of
                old.replace(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _unwritable_folder(target: Path, old: Path, error: OSError) -> StorageError:
    before = f"is in {old}" if old.exists() and not target.exists() else "is untouched"
    return unwritable(target, error, f"free space or name another folder; what was there before {before}")


# -- reading -------------------------------------------------------------------------------------------------


class _NotFinite(Exception):
    """A number that Python reads and JSON does not have."""


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):  # NaN, or such as 1e999
        raise _NotFinite(text)
    return value


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what the system says of a file into errors that name it."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file", hint="check the path") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})", hint="check the path") from error


def read_text(path: str | Path) -> str:
    """Read a text file; see `decoded`. A byte order mark, as Windows' editors write it, is dropped.

    Raises
    ------
    InputError
        If the file is missing, cannot be read or is not UTF-8.
    """
    path = Path(path)
    with _readable(path):
        return decoded(path.read_bytes(), str(path))


def decoded(data: bytes, where: str) -> str:
    """Return the text of some bytes: UTF-8, or what a mark at their beginning says is UTF-16 (PowerShell).

    Raises
    ------
    InputError
        Naming the place, if they are neither.
    """
    try:
        return data.decode("utf-16" if data.startswith(_WIDE) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 (byte {error.start})", hint="convert it to UTF-8") from error


def json_lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and object for each line that is not blank.

    Raises
    ------
    InputError
        Naming file and line: no such file, not UTF-8, malformed JSON or nested too deeply, a line that is
        no object, or a number that is not finite: Python writes and reads such, though JSON has none.
    """
    path = Path(path)
    with _readable(path), path.open("rb") as stream:
        lines: Iterable[bytes] = stream
        if stream.peek(2).startswith(_WIDE):  # a line's end has two bytes there
            lines = decoded(stream.read(), str(path)).encode().split(b"\n")
        for number, raw in enumerate(lines, 1):
            where = f"{path}:{number}"
            line = decoded(raw, where)
            if not line.strip():
                continue
            row = parse_json(line, where)
            if not isinstance(row, dict):
                raise InputError(
                    f"{where}: expected a JSON object, got {type(row).__name__}",
                    hint="the format is JSON Lines: one object on each line",
                )
            yield number, row


def read_json(path: str | Path) -> dict[str, Any]:
    """Read one JSON object from a file.

    Raises
    ------
    InputError
        If the file is missing, not JSON (NaN is none), nested too deeply, or no object.
    """
    value = parse_json(read_text(path), str(path))
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def parse_json(text: str, where: str) -> Any:
    """Read JSON.

    Raises
    ------
    InputError
        Naming the place: malformed, nested too deeply, or with a number that is not finite.
    """
    try:
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
    except _NotFinite as error:
        raise InputError(
            f"{where}: not valid JSON: {error} is no number in it",
            hint="find out why it is none; where a value is unknown, leave its key out or give null",
        ) from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}: not valid JSON ({error.msg} at line {error.lineno}, column {error.colno})",
            hint="the last line of a run that was killed may be cut off; remove it or resume the run",
        ) from error
    except RecursionError as error:
        hint = "no format here nests more than a few levels"
        raise InputError(f"{where}: nested too deeply to be read", hint=hint) from error


def read_yaml(path: str | Path, *, hint: str = "") -> dict[str, Any]:
    """Read a YAML file that holds one mapping.

    Parameters
    ----------
    hint
        Where to see what such a file looks like.

    Raises
    ------
    InputError
        If the file is missing, cannot be read or is not UTF-8.
    ConfigError
        If it is not YAML, or no mapping.
    """
    import yaml

    text = read_text(path)
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}", hint=hint) from error
    if not isinstance(values, dict):
        what = "nothing" if values is None else type(values).__name__
        raise ConfigError(f"{path}: expected keys and values, got {what}", hint=hint)
    return values


def load_yaml(path: str | Path, model: type[ModelT], *, hint: str = "") -> ModelT:
    """Read a YAML file into a pydantic model.

    Raises
    ------
    InputError
        As `read_yaml`.
    ConfigError
        Naming file and key: an unknown key, a missing one, or a value that cannot be; else as `read_yaml`.
    """
    folder = Path(path).resolve().parent
    return checked(model, read_yaml(path, hint=hint), where=str(path), hint=hint, folder=folder)


def checked(
    model: type[ModelT], values: Mapping[str, Any], *, where: str, hint: str = "", folder: Path | None = None
) -> ModelT:
    """Make a pydantic model of plain values.

    Parameters
    ----------
    where
        Where the values are from, for errors.
    folder
        What paths among them are relative to.

    Raises
    ------
    ConfigError
        Naming where the values are from and the first key that is wrong.
    """
    from pydantic import ValidationError

    try:
        return model.model_validate(values, context={"folder": folder})
    except ValidationError as error:
        key, reason, known = first_problem(error, model)
        raise ConfigError(f"{where}: {key + ': ' if key else ''}{reason}", hint=hint or known) from error


def first_problem(error: ValidationError, model: type[BaseModel]) -> tuple[str, str, str]:
    """Return the first key that is wrong, what is wrong with it, and what is meant where it is unknown.

    The input stands in none of them: it may hold a key or a password.
    """
    first = error.errors(include_input=False, include_url=False)[0]
    key, said = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return key, "there is no such key", meant([str(first["loc"][-1])], model.model_fields, "known keys")
    return key, said, ""


# -- hashes --------------------------------------------------------------------------------------------------


def sha256_of(*paths: str | Path) -> str:
    """Return the SHA-256 (hex) of a file's bytes, as ``sha256sum`` does, or of several files' in their order.

    Errors are those of `read_text`, whatever the bytes are.
    """
    digest = hashlib.sha256()
    for path in map(Path, paths):
        with _readable(path), path.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()


def hash_of(value: Any, *, digits: int = 64) -> str:
    """Return the first ``digits`` of the SHA-256 (hex) of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:digits]


# -- runs that may be killed ---------------------------------------------------------------------------------


class RunLog:
    """A JSONL file that a long run appends to row by row, and that a killed run goes on with.

    Each row has an ``id``; what is in the file is not done again. What made the rows is noted beside it
    (``<path>.run.json``), because rows of two models or two prompts in one file could not be told apart
    later. Rows that did not become part of the result, and why, may be listed in ``<path>.left-out.jsonl``
    (`leave_out`); they count as done too. One run at a time has the file: it is locked until `close`, the
    end of a ``with`` block, or the end of the process, however that comes. ``<path>.lock`` is left behind,
    empty.

    Parameters
    ----------
    path
        The file; made, with its folder, when missing. A half-written last line is dropped.
    made_by
        Everything that shapes a row, as plain values.

    Attributes
    ----------
    finished
        Ids of the rows in the file and of those left out.
    repaired
        Bytes of a half-written line that were dropped.

    Raises
    ------
    InputError
        If the file holds something else, was begun with other settings, or another process writes to it. It
        is left as it was.
    StorageError
        If it cannot be written.
    """

    MADE_FROM = "made_from"
    """Key of a row that holds a hash of what the row was made from; see `require_unchanged`."""

    _INPUTS = "inputs"

    def __init__(self, path: str | Path, made_by: Mapping[str, Any]) -> None:
        from filelock import FileLock, Timeout

        self.path = path = Path(path)
        self.left_out_path = path.with_name(path.name + ".left-out.jsonl")
        self._note = path.with_name(path.name + ".run.json")
        self._made_by: dict[str, Any] = json.loads(json.dumps(dict(made_by), default=str))
        self._made_from: dict[str, str | None] = {}
        self.repaired = 0
        try:
            if path.exists() and not path.is_file():
                raise InputError(f"{path} is no regular file", hint="name a file")
            path.parent.mkdir(parents=True, exist_ok=True)
            self._require_settings()  # before the lock's file is made: nothing is left beside others' files
            self._lock = FileLock(path.with_name(path.name + ".lock"), thread_local=False)
            try:
                self._lock.acquire(blocking=False)
            except Timeout:
                raise InputError(
                    f"another process writes to {path}",
                    hint="wait until it has ended, or name another output file",
                ) from None
            try:
                self._begin()
            except BaseException:
                self._lock.release()
                raise
        except OSError as error:
            raise unwritable(path, error) from error

    def _begin(self) -> None:
        self._require_settings()
        if not self._holds_rows():
            write_json(self._note, self._made_by)
        self.path.open("ab").close()  # a finished file keeps its time
        for path in filter(Path.exists, (self.path, self.left_out_path)):
            self._repair(path)
            for number, row in json_lines(path):
                if "id" not in row:
                    raise InputError(
                        f"{path}:{number}: not a row of this file",
                        hint="repair the line, or name another output file",
                    )
                self._made_from[str(row["id"])] = row.get(self.MADE_FROM)
        self.finished = set(self._made_from)

    def _repair(self, path: Path) -> None:
        """Drop a last line that a killed run left half-written, or end one that only lacks its line break."""
        with path.open("r+b") as file:
            data = file.read()
            start = data.rfind(b"\n") + 1
            if start == len(data):
                return
            try:
                whole = isinstance(json.loads(data[start:]), dict)
            except ValueError:  # also a character cut in two
                whole = False
            if whole:
                file.write(b"\n")
            else:
                self.repaired += len(data) - start
                file.truncate(start)

    def _holds_rows(self) -> bool:
        return any(file.exists() and file.stat().st_size > 0 for file in (self.path, self.left_out_path))

    def _require_settings(self) -> None:
        if not self._holds_rows():
            return
        try:
            found = read_json(self._note)
        except InputError as error:
            raise InputError(
                f"{self.path} is there already and {self._note.name} beside it does not say how it was made",
                hint="use it as it is in the next step, or name another output file",
            ) from error
        found.pop(self._INPUTS, None)
        wanted = self._made_by
        differing = [key for key in {**wanted, **found} if wanted.get(key) != found.get(key)]
        if differing:
            first = differing[0]
            raise InputError(
                f"{self.path} was begun with other settings: {', '.join(differing)} "
                f"({first} was {found.get(first)!r}, now {wanted.get(first)!r})",
                hint=f"name another output file, or delete this one and {self.path.name}.* beside it",
            )

    def require_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Refuse to go on where a run began with other data: a catalog, adapters, ... of other content.

        Parameters
        ----------
        inputs
            What the rows depend on beside the settings, as plain values such as hashes, where that is known
            only after the file was opened. Kept with the settings when the first run says them.

        Raises
        ------
        InputError
            Naming what has changed.
        """
        given = json.loads(json.dumps(dict(inputs)))
        if not self._holds_rows():
            write_json(self._note, {**self._made_by, self._INPUTS: given})
            return
        before = read_json(self._note).get(self._INPUTS)
        if not isinstance(before, dict):
            raise InputError(
                f"{self.path} does not say from which catalog and adapters it was made",
                hint="name another output file, or remove this one and its .run.json",
            )
        changed = sorted(key for key in {*before, *given} if before.get(key) != given.get(key))
        if changed:
            said = ", ".join(f"{key} (then {before.get(key)}, now {given.get(key)})" for key in changed)
            raise InputError(
                f"{self.path} was begun with what has changed since: {said}",
                hint="name another output file, or put back what it was begun with",
            )

    def require_unchanged(self, now: Mapping[str, str], *, what: str) -> None:
        """Refuse to go on where a row in the file would be made from something else now.

        Parameters
        ----------
        now
            Id -> hash of what the row would be made from; ids that are not in the file may be any.
        what
            What the hash covers, in words.

        Raises
        ------
        InputError
            Naming the rows.
        """
        before = self._made_from
        changed = [key for key, made_from in now.items() if before.get(key) not in (None, made_from)]
        if changed:
            raise InputError(
                f"{self.path}: {len(changed)} of its turns have other {what} now: "
                f"{', '.join(changed[:3])}{', ...' if len(changed) > 3 else ''}",
                hint="name another output file, or put back the conversations that it was begun with",
            )

    def write(self, rows: Collection[Mapping[str, Any]]) -> None:
        """Append rows and return once they are on the disk.

        Raises
        ------
        StorageError
            If they do not fit; nothing of them is left behind.
        """
        self._append(self.path, rows)

    def leave_out(self, row: Mapping[str, Any]) -> None:
        """List a row that is not to be part of the file, with the reason; it is not asked for again.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        self._append(self.left_out_path, [row])

    def _append(self, path: Path, rows: Collection[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        data = text.encode("utf-8", errors="backslashreplace")
        try:
            with path.open("ab", buffering=0) as file:
                size = file.tell()
                try:
                    if file.write(data) != len(data):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(size)
                    raise
        except OSError as error:
            raise unwritable(path, error, "free some space and run again: it goes on") from error
        self.finished.update(str(row["id"]) for row in rows)

    def close(self) -> None:
        """Let others have the file."""
        self._lock.release()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
