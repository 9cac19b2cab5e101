"""Which version of a live catalog is live, kept in a small file so that restarts and other processes know."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from reges_index.catalog.place import StoreLocation, is_url, store_errors
from reges_index.errors import CatalogError
from reges_index.files import write_text


def usual_state_file(folder: Path, name: str) -> Path:
    """Return where the state of a live catalog is kept if nothing else is said."""
    return folder / f".reges-live-{name}.json"


def version_name(base: str, number: int) -> str:
    """Return the name that a version made for a live catalog has in the store."""
    return f"{base}.v{number}"


def live_catalogs(folder: Path) -> dict[str, LiveState]:
    """Return the live catalogs that keep their state in a folder, by name.

    Raises
    ------
    CatalogError
        If a state file is damaged.
    """
    found = {}
    for path in sorted(folder.glob(str(usual_state_file(Path(), "*")))):
        if (state := StateFile(path).changed()) is not None:
            found[path.name.removeprefix(".reges-live-").removesuffix(".json")] = state
    return found


def live_in(store: str) -> dict[str, LiveState]:
    """Return the live catalogs that a folder says it has, by name; none for a server, which does not say."""
    folder = None if is_url(store) else StoreLocation.of(store, None).persist_dir
    return {} if folder is None else live_catalogs(folder)


def listed_once(names: Iterable[str], live: Mapping[str, LiveState]) -> list[str]:
    """Return the names in a store with each live catalog once, under its own name, for all its versions."""
    present = set(names)
    bases = {base for base, state in live.items() if base in present or present & {*state.names.values()}}
    made = {name for name in present for base, state in live.items() if state.is_made(name, base)}
    return sorted(bases | present - made)


class LiveState(BaseModel):
    """The versions there are, and which of them was live when.

    Parameters
    ----------
    names
        Name in the store of every version that is kept, by its number.
    history
        Numbers of the versions that were live, the live one last.
    following
        Number of the next version; numbers are never used again.
    borrowed
        Versions that were made by the caller: pruning forgets them, and leaves them in the store.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    names: dict[int, str]
    history: tuple[int, ...]
    following: int
    borrowed: frozenset[int] = frozenset()

    @model_validator(mode="after")
    def _names_a_live_version(self) -> LiveState:
        if not self.history or not set(self.history) <= self.names.keys():
            raise ValueError("it names no live version")
        return self

    @property
    def live(self) -> int:
        """Number of the live version."""
        return self.history[-1]

    def is_made(self, name: str, base: str) -> bool:
        """Whether a catalog of the store was made for the live one `base`, and is not the caller's own.

        Besides the versions that are kept, these are what a swap has begun and what pruning has not deleted.
        """
        for number, kept in self.names.items():
            if kept == name:
                return number not in self.borrowed
        return any(name == version_name(base, number) for number in range(2, self.following + 1))

    def past(self, keep: int) -> list[int]:
        """Numbers of all versions but the live one and the `keep` that were live last."""
        recent = [*reversed(self.history)]
        never = sorted(set(self.names) - set(recent), reverse=True)
        return sorted([*recent, *never][keep + 1 :])

    def with_version(self, name: str, *, is_borrowed: bool) -> LiveState:
        """Add a version and make it the live one."""
        number = self.following
        added = {
            "names": {**self.names, number: name},
            "history": (*self.history, number),
            "following": number + 1,
            "borrowed": self.borrowed | {number} if is_borrowed else self.borrowed,
        }
        return self.model_copy(update=added)

    def without(self, numbers: frozenset[int]) -> LiveState:
        """Forget versions, none of them the live one."""
        left = {
            "names": {number: name for number, name in self.names.items() if number not in numbers},
            "history": tuple(number for number in self.history if number not in numbers),
            "borrowed": self.borrowed - numbers,
        }
        return self.model_copy(update=left)


def first_state(name: str, *, is_borrowed: bool = True) -> LiveState:
    """Return the state of a catalog that was never swapped: one version, which is live."""
    borrowed = frozenset({1}) if is_borrowed else frozenset()
    return LiveState(names={1: name}, history=(1,), following=2, borrowed=borrowed)


class StateFile:
    """A `LiveState` on disk, replaced whole.

    Parameters
    ----------
    path
        Of the file. A lock file of the same name with ``.lock`` is kept beside it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int] | None = None
        self._lock = FileLock(f"{path}.lock")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let one process at a time change the state."""
        with store_errors(str(self.path)):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    def changed(self) -> LiveState | None:
        """Return the state if the file is another one than at the last look, else None.

        Raises
        ------
        CatalogError
            If the file is not what was written.
        """
        if not self.path.exists():
            return None
        try:
            with store_errors(str(self.path)), self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                seen = (status.st_ino, status.st_mtime_ns)
                if seen == self._seen:
                    return None
                state = LiveState.model_validate_json(file.read())
        except ValidationError as error:
            raise CatalogError(
                f"{self.path} is damaged: {error}",
                hint="delete it: the catalog then starts again from the version that bears its plain name",
            ) from error
        self._seen = seen
        return state

    def forget(self) -> None:
        """Take the state for one that nobody has looked at, such as when it could not be followed."""
        self._seen = None

    def write(self, state: LiveState) -> None:
        """Replace the file; call it inside `locked`."""
        write_text(self.path, state.model_dump_json())
        status = self.path.stat()
        self._seen = (status.st_ino, status.st_mtime_ns)
