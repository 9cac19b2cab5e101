"""Chroma stores: a folder, memory or a server; telemetry is off, and errors say what to do."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import chromadb
import httpx
from chromadb.api import ClientAPI
from chromadb.api.client import AdminClient
from chromadb.api.shared_system_client import SharedSystemClient
from chromadb.config import Settings
from chromadb.errors import ChromaError, NotFoundError
from filelock import FileLock

from reges_index.errors import CatalogError, InputError, ReGeSError, StorageError, StoreNotFoundError

__all__ = [
    "KINDS",
    "StoreLocation",
    "check_name",
    "free_to_write",
    "open_client",
    "store_errors",
    "write_lock",
]

logger = logging.getLogger(__name__)

_naming = threading.Lock()

_DATABASE_FILE = "chroma.sqlite3"
_LOCK_FILE = ".reges.lock"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]")

# What SQLite and the operating system say inside Chroma's errors, which carry text only.
_SQLITE_CODE = re.compile(r"\(code: (\d+)\)")
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_SQLITE_STORAGE = {
    8: "it is read-only",
    10: "the disk does not answer",
    13: "the disk is full",
    14: "no access",
}
_SQLITE_DAMAGED = {11, 26}
_ERRNO_STORAGE = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file size limit is reached",
    errno.EROFS: "it is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EIO: "the disk does not answer",
}
# Less than this and SQLite cannot even begin a write; Chroma then names no cause.
_NEEDED_BYTES = 1 << 20
_STORAGE_HINT = "free some space or choose a folder that can be written; the sync goes on where it stopped"
_DAMAGED_HINT = "the store is half-written or damaged: delete the folder and index the items again"


KINDS = ("chroma", "qdrant", "lancedb")
"""Kinds of store that hold catalogs."""


@dataclass(frozen=True)
class StoreLocation:
    """Where a store is: a folder, a server, or (neither given) memory; `kind` is one of `KINDS`."""

    persist_dir: Path | None = None
    url: str | None = None
    kind: str = "chroma"

    @classmethod
    def of(cls, persist_dir: str | Path | None, url: str | None) -> StoreLocation:
        """Check the two ways to name a store.

        A folder is Chroma's unless ``qdrant:`` or ``lancedb:`` stands before it.

        Raises
        ------
        InputError
            If both are given or the URL is not ``http(s)://host[:port]``.
        """
        if persist_dir is not None and url is not None:
            raise InputError(
                "both persist_dir and url are given", hint="a store is a folder or a server, not both"
            )
        if url is not None:
            _host_and_port(url)
        if persist_dir is None:
            return cls(None, url)
        kind, path = "chroma", str(persist_dir)
        for known in KINDS:
            if path.startswith(f"{known}:"):
                kind, path = known, path[len(known) + 1 :]
        if not path.strip():
            raise InputError(f"{str(persist_dir)!r} names no folder", hint=f"write it as {kind}:FOLDER")
        # Chroma keeps one system per path text, so equal folders must be equal text.
        return cls(Path(path).expanduser().resolve(), None, kind)

    def __str__(self) -> str:
        prefix = "" if self.kind == "chroma" else f"{self.kind}:"
        return f"{prefix}{self.persist_dir or self.url or 'memory'}"


def check_name(name: str) -> str:
    """Return a collection name that Chroma takes, or raise InputError."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"catalog name {name!r} is not possible",
            hint="use 3 to 512 letters a-z, digits, '.', '_' and '-', with a letter or digit at both ends",
        )
    return name


def open_client(location: StoreLocation, *, create: bool) -> ClientAPI:
    """Open a store.

    Parameters
    ----------
    location
        Where it is. Every in-memory store is a new one, isolated from all others of the process.
    create
        Make the folder if it is missing.

    Raises
    ------
    StoreNotFoundError
        If there is no store in the folder and `create` is false, or no server answers.
    StorageError
        If the folder cannot be written or the disk is full.
    CatalogError
        If the store is damaged.
    """
    with store_errors(str(location)):
        if location.url is not None:
            return _server_client(location.url)
        if location.persist_dir is None:
            return _memory_client()
        return _folder_client(location.persist_dir, create)


@contextmanager
def write_lock(location: StoreLocation) -> Iterator[None]:
    """Let one process at a time write to a folder; the operating system frees the lock of a killed one.

    Servers and memory have no folder to lock: memory belongs to one process, and on a server syncs of the
    same items may overlap without harm, while those of different items need care by the caller.
    """
    if location.persist_dir is None:
        yield
        return
    lock = FileLock(location.persist_dir / _LOCK_FILE)
    with store_errors(str(location)):
        try:
            lock.acquire(blocking=False)
        except TimeoutError:
            logger.info("waiting for another process that writes to %s", location)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def free_to_write(location: StoreLocation) -> Iterator[bool]:
    """Hold the lock of a folder if nobody else does; tell whether that is so."""
    if location.persist_dir is None:
        yield True
        return
    lock = FileLock(location.persist_dir / _LOCK_FILE)
    with store_errors(str(location)), suppress(TimeoutError):
        lock.acquire(blocking=False)
    try:
        yield lock.is_locked
    finally:
        lock.release()


@contextmanager
def store_errors(where: str, folder: Path | None = None) -> Iterator[None]:
    """Translate errors of Chroma, SQLite, HTTP and the file system into those of this package.

    Parameters
    ----------
    where
        What the errors name.
    folder
        Of the store that is written to: looked at when Chroma does not say why it failed.
    """
    try:
        yield
    except ReGeSError:
        raise
    except NotFoundError as error:
        raise StoreNotFoundError(f"{where}: {error}", hint="it was deleted; index the items again") from error
    except ChromaError as error:
        raise _from_text(where, str(error), folder) from error
    except httpx.HTTPError as error:
        raise CatalogError(
            f"{where}: the Chroma server does not answer: {error}", hint="is `chroma run` still running?"
        ) from error
    except OSError as error:
        reason = _ERRNO_STORAGE.get(error.errno or 0, error.strerror or str(error))
        raise StorageError(f"{where}: {reason}", hint=_STORAGE_HINT) from error


def _from_text(where: str, text: str, folder: Path | None) -> ReGeSError:
    code = _SQLITE_CODE.search(text)
    primary = int(code[1]) & 0xFF if code else 0  # the high bits of SQLite's codes only say more
    system = _OS_ERROR.search(text)
    reason = _SQLITE_STORAGE.get(primary) or (_ERRNO_STORAGE.get(int(system[1])) if system else None)
    if not reason and folder and folder.is_dir() and shutil.disk_usage(folder).free < _NEEDED_BYTES:
        reason = "the disk is full"
    if reason:
        return StorageError(f"{where}: {reason} ({text})", hint=_STORAGE_HINT)
    if primary in _SQLITE_DAMAGED or "hnsw segment" in text:
        return CatalogError(f"{where}: the store cannot be read ({text})", hint=_DAMAGED_HINT)
    return CatalogError(f"{where}: Chroma says: {text}", hint="see Chroma's message")


def _settings(**values: str | bool) -> Settings:
    return Settings(anonymized_telemetry=False, **values)


def _folder_client(folder: Path, create: bool) -> ClientAPI:
    if not (folder / _DATABASE_FILE).is_file() and not create:
        parts = [path for path in folder.glob("*") if path.name != _LOCK_FILE] if folder.is_dir() else []
        found = f"a folder without {_DATABASE_FILE}" if parts else "no store"
        raise StoreNotFoundError(
            f"{folder}: there is {found}", hint="check the path, or index the items there first"
        )
    folder.mkdir(parents=True, exist_ok=True)
    # Chroma knows a folder by the text of its path and shares one system, with what that has read so far,
    # between equal texts. "/." at the end is another text for the same folder: this client reads anew.
    with _naming:
        path = str(folder)
        while path in SharedSystemClient._identifier_to_system:
            path += f"{os.sep}."
        return chromadb.PersistentClient(path, settings=_settings(persist_directory=path, is_persistent=True))


class _MemorySettings(Settings):
    """Settings that count as equal whether or not there is telemetry; ours has none.

    All in-memory clients of a process share one system, and Chroma refuses a client with other settings than
    the first one's: the user's own ``chromadb.EphemeralClient()``, if it comes after a catalog in memory.
    """

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Settings):
            return NotImplemented
        return dict(self) == {**dict(other), "anonymized_telemetry": self.anonymized_telemetry}


def _memory_client() -> ClientAPI:
    # All in-memory clients of a process share one database; one database for each keeps them apart.
    # If the user's own code made the first, its settings stand.
    system = SharedSystemClient._identifier_to_system.get("ephemeral")
    own = _MemorySettings(anonymized_telemetry=False, is_persistent=False)
    settings = own if system is None else system.settings
    name = f"reges-{uuid.uuid4().hex}"
    AdminClient(settings).create_database(name)
    return chromadb.EphemeralClient(settings=settings, database=name)


def _server_client(url: str) -> ClientAPI:
    host, port, secure = _host_and_port(url)
    try:
        return chromadb.HttpClient(host=host, port=port, ssl=secure, settings=_settings())
    except (ValueError, httpx.HTTPError) as error:
        raise StoreNotFoundError(
            f"{url}: no Chroma server answers: {error}", hint=f"start one with `chroma run --port {port}`"
        ) from error


def _host_and_port(url: str) -> tuple[str, int, bool]:
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        # Not repeated here; it would also be kept in saved pipelines and beside predictions.
        raise InputError(
            "the store's address holds a user name, a password or a query, which Chroma does not get",
            hint="write it as http://host:port; put a server with a password behind a client of your own",
        )
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1 or parts.path.strip("/"):
        raise InputError(f"{url!r} is no address of a Chroma server", hint="write it as http://host:port")
    return parts.hostname, port or (443 if parts.scheme == "https" else 8000), parts.scheme == "https"
