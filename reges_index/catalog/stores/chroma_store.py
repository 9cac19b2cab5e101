"""Chroma stores: one client for each of a process, and what a folder remembers of its last write.

A client is opened anew when another process has written to the folder. Chroma keeps rows in SQLite, which
survives a kill, but writes the files of its vector index in place, so a kill in the middle of that leaves an
index that loses rows, fails or even hangs. And a process that has the store open does not see what another
one writes; if it then writes itself, rows are lost. (Both were tried out with chromadb 1.5.9.) So a journal
lies beside the database: a revision that changes with every write, the collection that is being written, and
how the index files looked after the last finished batch.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import threading
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

import chromadb
import httpx
from chromadb.api import ClientAPI
from chromadb.api.client import AdminClient
from chromadb.api.shared_system_client import SharedSystemClient
from chromadb.config import Settings
from chromadb.errors import ChromaError, NotFoundError

from reges_index.catalog.place import (
    ERRNO_REASONS,
    LOCK_FILE,
    STORAGE_HINT,
    StoreLocation,
    host_and_port,
    no_store,
    store_errors,
    write_lock,
)
from reges_index.errors import CatalogError, ReGeSError, StorageError, StoreNotFoundError
from reges_index.files import write_text

logger = logging.getLogger(__name__)

_naming = threading.Lock()

_DATABASE_FILE = "chroma.sqlite3"
_JOURNAL_FILE = ".reges-journal.json"

# What SQLite and the operating system say inside Chroma's errors, which carry text only.
_SQLITE_CODE = re.compile(r"\(code: (\d+)\)")
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_SQLITE_REASONS = {
    8: "it is read-only",
    10: "the disk does not answer",
    13: "the disk is full",
    14: "no access",
}
_SQLITE_DAMAGED = {11, 26}
# Less than this and SQLite cannot even begin a write; Chroma then names no cause.
_NEEDED_BYTES = 1 << 20

Files = dict[str, list[int]]


def explained(where: str, error: Exception, folder: Path | None = None) -> ReGeSError | None:
    """Return what an error of Chroma means; None if it is none of Chroma's.

    Parameters
    ----------
    where
        What the error names.
    folder
        Of the store: looked at when Chroma does not say why it failed. It may have to write even to read.
    """
    text = str(error)
    if isinstance(error, NotFoundError):
        return StoreNotFoundError(f"{where}: {text}", hint="it was deleted; index the items again")
    if isinstance(error, httpx.HTTPError):
        return CatalogError(
            f"{where}: the Chroma server does not answer: {text}", hint="is `chroma run` still running?"
        )
    if not isinstance(error, ChromaError):
        return None
    code = _SQLITE_CODE.search(text)
    primary = int(code[1]) & 0xFF if code else 0  # the high bits of SQLite's codes only say more
    system = _OS_ERROR.search(text)
    reason = _SQLITE_REASONS.get(primary) or (ERRNO_REASONS.get(int(system[1])) if system else None)
    if not reason and folder and folder.is_dir() and shutil.disk_usage(folder).free < _NEEDED_BYTES:
        reason = "the disk is full"
    if reason:
        return StorageError(f"{where}: {reason} ({text})", hint=STORAGE_HINT)
    if primary in _SQLITE_DAMAGED or "hnsw segment" in text:
        return CatalogError(
            f"{where}: the store cannot be read ({text})",
            hint="the store is half-written or damaged: delete the folder and index the items again",
        )
    return CatalogError(f"{where}: Chroma says: {text}", hint="see Chroma's message")


@dataclass(frozen=True)
class Journal:
    """State of a folder store.

    Parameters
    ----------
    revision
        New with every write; empty if nobody has written through this package.
    pending
        Collections whose last write has not ended, each with the state of the index files (see `index_files`)
        when its last batch was safely in.
    """

    revision: str = ""
    pending: dict[str, Files] = field(default_factory=dict)

    def broken(self, folder: Path) -> dict[str, Files]:
        """Return what is pending of collections whose writer was killed while index files were written."""
        files = index_files(folder) if self.pending else {}
        return {name: before for name, before in self.pending.items() if before != files}


def read_journal(folder: Path) -> Journal:
    """Return the folder's journal, an empty one if there is none.

    Raises
    ------
    CatalogError
        If the file is not what was written.
    """
    path = folder / _JOURNAL_FILE
    try:
        return Journal(**json.loads(path.read_text("utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return Journal()
    except (ValueError, TypeError) as error:
        raise CatalogError(
            f"{path} is damaged: {error}", hint="delete the folder and index the items again"
        ) from error


def index_files(folder: Path) -> Files:
    """Return size (bytes) and time of change (ns) of Chroma's saved index files.

    Each collection has a folder. Until its `index_metadata.pickle` is there, which is saved last, Chroma
    builds the index from the database and every process writes the other files anew: these mean nothing.
    """
    states = {}
    for saved in sorted(folder.glob("*/index_metadata.pickle")):
        for path in sorted(saved.parent.iterdir()):
            status = path.stat()
            states[path.relative_to(folder).as_posix()] = [status.st_size, status.st_mtime_ns]
    return states


class _SharedSettings(Settings):
    """Settings that count as equal to a user's that differ in telemetry only; ours has none.

    Chroma keeps one system for each folder of a process, and one for all that is in memory, and refuses a
    second client with other settings than the first one's. An app's own ``chromadb.PersistentClient`` of the
    same folder, before or after a catalog, would be such a client.
    """

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Settings):
            return NotImplemented
        return dict(self) == {**dict(other), "anonymized_telemetry": self.anonymized_telemetry}


def _folder_client(folder: Path, *, create: bool, anew: bool) -> ClientAPI:
    if not (folder / _DATABASE_FILE).is_file() and not create:
        parts = [path for path in folder.glob("*") if path.name != LOCK_FILE] if folder.is_dir() else []
        raise no_store(str(folder), f"a folder without {_DATABASE_FILE}" if parts else "no store")
    # What was deleted must not be served from memory.
    anew = anew or not (folder / _DATABASE_FILE).is_file()
    folder.mkdir(parents=True, exist_ok=True)
    # Chroma knows a folder by the text of its path and shares one system, with what that has read so far,
    # between equal texts: with a client of the user's, so that each sees what the other writes. "/." at the
    # end is another text for the same folder: such a client reads anew.
    with _naming:
        systems = SharedSystemClient._identifier_to_system
        path = str(folder)
        if anew:
            while path in systems:
                path += f"{os.sep}."
        else:
            same = (text for text in systems if text != "ephemeral" and _is_folder(text, folder))
            path = next(same, path)
        if path in systems:
            return chromadb.PersistentClient(path, settings=systems[path].settings)
        settings = _SharedSettings(anonymized_telemetry=False, persist_directory=path, is_persistent=True)
        return chromadb.PersistentClient(path, settings=settings)


def _is_folder(text: str, folder: Path) -> bool:
    return os.sep in text and Path(text).resolve() == folder and not text.endswith(f"{os.sep}.")


def _memory_client() -> ClientAPI:
    # All in-memory clients of a process share one database; one database for each keeps them apart.
    # If the user's own code made the first, its settings stand.
    system = SharedSystemClient._identifier_to_system.get("ephemeral")
    own = _SharedSettings(anonymized_telemetry=False, is_persistent=False)
    settings = own if system is None else system.settings
    name = f"reges-{uuid.uuid4().hex}"
    AdminClient(settings).create_database(name)
    return chromadb.EphemeralClient(settings=settings, database=name)


def _server_client(url: str) -> ClientAPI:
    host, port, secure = host_and_port(url)
    try:
        return chromadb.HttpClient(
            host=host, port=port, ssl=secure, settings=Settings(anonymized_telemetry=False)
        )
    except (ValueError, httpx.HTTPError) as error:
        raise StoreNotFoundError(
            f"{url}: no Chroma server answers: {error}", hint=f"start one with `chroma run --port {port}`"
        ) from error


def delete_collection(client: ClientAPI, name: str, *, is_broken: bool = False) -> None:
    """Delete a collection and everything that its rows leave behind.

    Chroma keeps the values of metadata lists of a deleted collection under row numbers that it gives to rows
    of later ones: an item would then pass a filter for the genre of another that is long gone. Deleting the
    rows first takes their lists with them; where the index is broken rows cannot be deleted, and the lists
    stay.
    """
    ids = [] if is_broken else client.get_collection(name).get(include=[])["ids"]
    size = client.get_max_batch_size()
    for start in range(0, len(ids), size):
        client.get_collection(name).delete(ids=ids[start : start + size])
    client.delete_collection(name)


class _Open:
    """A client; closed once neither its handle nor a call that is under way has this any more."""

    def __init__(self, client: ClientAPI, *, is_emptied: bool) -> None:
        self.client = client
        # Once only: Chroma counts closings by path, and the path may belong to a newer client by then.
        weakref.finalize(self, _close, client, is_emptied).atexit = False


def _close(client: ClientAPI, is_emptied: bool) -> None:
    if is_emptied:  # all in-memory stores share one system that lives on and would keep the rows
        for collection in client.list_collections():
            delete_collection(client, collection.name)
    client.close()


class StoreHandle:
    """An open store. Get it by `StoreHandle.of`; catalogs of one folder share it.

    Errors are those of `reges_index.catalog.stores.table_at`.

    Parameters
    ----------
    location
        Where the store is. Every in-memory store is a new one, isolated from all others of the process.
    create
        Make the folder if it is missing.
    client
        For memory that somebody else has opened, and that is theirs to empty.
    """

    _handles: ClassVar[weakref.WeakValueDictionary[Path, StoreHandle]] = weakref.WeakValueDictionary()
    _opening = threading.Lock()

    def __init__(self, location: StoreLocation, *, create: bool, client: ClientAPI | None = None) -> None:
        self.location = location
        self._folder = location.persist_dir
        self._state = threading.RLock()
        self._write = threading.RLock()
        self._written: str | None = None  # the collection that is being written
        self._broken: dict[str, Files] = {}
        self._has_begun = False
        self._revision = read_journal(self._folder).revision if self._folder else ""
        self._open = self._opened(create=create) if client is None else _Open(client, is_emptied=False)
        self.batch_size: int = self._open.client.get_max_batch_size()

    @classmethod
    def of(cls, location: StoreLocation, *, create: bool) -> StoreHandle:
        """Return the process's handle of a folder, or a new one for memory and servers."""
        folder = location.persist_dir
        if folder is None:
            return cls(location, create=create)
        with cls._opening:
            handle = cls._handles.get(folder)
            # A folder that was deleted meanwhile must not be served from memory.
            if handle is None or not (folder / _DATABASE_FILE).exists():
                if create:
                    with store_errors(str(location)):
                        folder.mkdir(parents=True, exist_ok=True)
                    # Two processes must not set up the same database at once.
                    with write_lock(location):
                        handle = cls(location, create=True)
                else:
                    handle = cls(location, create=False)
                cls._handles[folder] = handle
            return handle

    @contextmanager
    def reading(self) -> Iterator[ClientAPI]:
        """Lend the client, which sees all that any process had written when this was called."""
        with self._state:
            if self._written is None:
                self._look()
            lent = self._open
        yield lent.client

    @contextmanager
    def writing(self, collection: str) -> Iterator[None]:
        """Let one caller of one process at a time write to a collection; `reading` lends the client."""
        with self._write, write_lock(self.location):
            with self._state:
                self._broken = self._look()
                self._written, self._has_begun = collection, False
            try:
                yield
                self._note({})
            finally:
                with self._state:
                    self._written = None

    def begin(self) -> None:
        """Note, before the first change of a write, that a kill may now leave a half-saved index."""
        if not self._has_begun:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Note that what the write has done is in the index: only what follows may be killed."""
        self._has_begun = True
        if self._folder and self._written:
            self._note({self._written: index_files(self._folder)})

    def _note(self, pending: dict[str, Files]) -> None:
        if self._folder:
            # Files of broken collections stay as they were, so that these stay broken.
            others = {name: files for name, files in self._broken.items() if name != self._written}
            journal = Journal(uuid.uuid4().hex, {**others, **pending})
            with self._state:
                write_text(self._folder / _JOURNAL_FILE, json.dumps(asdict(journal)))
                self._revision = journal.revision

    def is_broken(self, collection: str) -> bool:
        """Whether the last write of a collection was killed while Chroma wrote its index files."""
        if self._folder is None:
            return False
        with self._state:
            if self._written is not None:
                return collection in self._broken
        if collection not in read_journal(self._folder).pending:
            return False
        # Files change while somebody writes; only when nobody does, a difference means harm.
        with write_lock(self.location, wait=False) as is_held:
            return is_held and collection in read_journal(self._folder).broken(self._folder)

    def refresh(self) -> bool:
        """Open the store anew, unless it is being written to here; return whether that was done."""
        with self._state:
            if self._folder is None or self._written is not None:
                return False
            self._revision = ""  # none of a journal's, so that it is taken for written by another
            self._look()
            return True

    def _look(self) -> dict[str, Files]:
        """See what other processes have written; return what is pending of broken collections."""
        if self._folder is None:
            return {}
        journal = read_journal(self._folder)
        if journal.revision != self._revision:
            logger.info("opening %s anew", self.location)
            self._open, self._revision = self._opened(create=False, anew=True), journal.revision
        return journal.broken(self._folder)

    def _opened(self, *, create: bool, anew: bool = False) -> _Open:
        where = str(self.location)
        with store_errors(where, lambda error: explained(where, error)):
            if self.location.url is not None:
                return _Open(_server_client(self.location.url), is_emptied=False)
            if self._folder is None:
                return _Open(_memory_client(), is_emptied=True)
            return _Open(_folder_client(self._folder, create=create, anew=anew), is_emptied=False)
