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
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator
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

from reges_index.catalog.place import StoreLocation, host_and_port
from reges_index.catalog.stores.guards import LOCK_FILE, free_to_write, store_errors, write_lock
from reges_index.errors import CatalogError, StoreNotFoundError

__all__ = ["StoreHandle", "Write", "delete_collection", "open_client"]

logger = logging.getLogger(__name__)

_naming = threading.Lock()

_DATABASE_FILE = "chroma.sqlite3"

Files = dict[str, list[int]]

_JOURNAL_FILE = ".reges-journal.json"


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

    def broken(self, folder: Path) -> set[str]:
        """Return the collections whose index files were being written when their writer was killed."""
        files = index_files(folder)
        return {name for name, before in self.pending.items() if before != files}


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


def write_journal(folder: Path, pending: dict[str, Files]) -> Journal:
    """Write a journal with a new revision; whole or not at all."""
    journal = Journal(uuid.uuid4().hex, pending)
    draft = folder / f"{_JOURNAL_FILE}.{os.getpid()}"
    try:
        draft.write_text(json.dumps(asdict(journal)), "utf-8")
        draft.replace(folder / _JOURNAL_FILE)
    finally:
        draft.unlink(missing_ok=True)
    return journal


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


def open_client(location: StoreLocation, *, create: bool, anew: bool = False) -> ClientAPI:
    """Open a store.

    Parameters
    ----------
    location
        Where it is. Every in-memory store is a new one, isolated from all others of the process.
    create
        Make the folder if it is missing.
    anew
        Read a folder that is open already from the disk again.

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
        return _folder_client(location.persist_dir, create, anew=anew)


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


def _folder_client(folder: Path, create: bool, *, anew: bool) -> ClientAPI:
    if not (folder / _DATABASE_FILE).is_file() and not create:
        parts = [path for path in folder.glob("*") if path.name != LOCK_FILE] if folder.is_dir() else []
        found = f"a folder without {_DATABASE_FILE}" if parts else "no store"
        raise StoreNotFoundError(
            f"{folder}: there is {found}", hint="check the path, or index the items there first"
        )
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


def delete_collection(client: ClientAPI, name: str, *, broken: bool = False) -> None:
    """Delete a collection and everything that its rows leave behind.

    Chroma keeps the values of metadata lists (genres, cast) of a deleted collection under row numbers that it
    gives to rows of later ones: an item without genres would then pass a filter for the genre of another that
    is long gone. Deleting the rows first takes their lists with them; where the index is ``broken`` rows
    cannot be deleted, and the lists stay.
    """
    if broken:
        client.delete_collection(name)
        return
    collection = client.get_collection(name)
    ids = collection.get(include=[])["ids"]
    size = client.get_max_batch_size()
    for start in range(0, len(ids), size):
        collection.delete(ids=ids[start : start + size])
    client.delete_collection(name)


class _Lease:
    """A client and how many calls use it; closed when it is retired and the last call is done."""

    def __init__(self, client: ClientAPI, location: StoreLocation) -> None:
        self.client = client
        self.in_memory = location.persist_dir is None and location.url is None
        self.closed = False
        self.users = 0
        self.retired = False


class StoreHandle:
    """An open store. Get it by `StoreHandle.of`; catalogs of one folder share it.

    Parameters
    ----------
    location
        Where the store is.
    create
        Whether to make the folder.
    client
        For memory that somebody else has opened, and that is theirs to empty.
    """

    _open: ClassVar[weakref.WeakValueDictionary[Path, StoreHandle]] = weakref.WeakValueDictionary()
    _opening = threading.Lock()

    def __init__(self, location: StoreLocation, *, create: bool, client: ClientAPI | None = None) -> None:
        self.location = location
        self._folder = location.persist_dir
        self._state = threading.RLock()
        self._write = threading.RLock()
        self._is_writing = False
        self._revision = read_journal(self._folder).revision if self._folder else ""
        self._lease = _Lease(client or open_client(location, create=create), location)
        self._lease.in_memory &= client is None
        self.batch_size: int = self._lease.client.get_max_batch_size()
        weakref.finalize(self, _retire, self._lease).atexit = False

    @classmethod
    def of(cls, location: StoreLocation, *, create: bool) -> StoreHandle:
        """Return the process's handle of a folder, or a new one for memory and servers."""
        if location.persist_dir is None:
            return cls(location, create=create)
        with cls._opening:
            handle = cls._open.get(location.persist_dir)
            # A folder that was deleted meanwhile must not be served from memory.
            if handle is None or not (location.persist_dir / "chroma.sqlite3").exists():
                if create:
                    with store_errors(str(location)):
                        location.persist_dir.mkdir(parents=True, exist_ok=True)
                    # Two processes must not set up the same database at once.
                    with write_lock(location):
                        handle = cls(location, create=True)
                else:
                    handle = cls(location, create=False)
                cls._open[location.persist_dir] = handle
            return handle

    @contextmanager
    def reading(self) -> Iterator[ClientAPI]:
        """Lend the client, which sees all that any process had written when this was called."""
        with self._state:
            if self._folder and not self._is_writing:
                revision = read_journal(self._folder).revision
                if revision != self._revision:
                    self._reopen(revision)
            lease = self._lease
            lease.users += 1
        try:
            yield lease.client
        finally:
            with self._state:
                lease.users -= 1
                _close_if_done(lease)

    @contextmanager
    def writing(self, collection: str) -> Iterator[Write]:
        """Lend the client for writing to a collection, to one caller of one process at a time."""
        with self._write, write_lock(self.location):
            sound: set[str] = set()
            pending: dict[str, Files] = {}
            with self._state:
                if self._folder:
                    journal = read_journal(self._folder)
                    if journal.revision != self._revision:
                        self._reopen(journal.revision)
                    pending = journal.pending
                    sound = set(pending) - journal.broken(self._folder)
                self._is_writing = True
                lease = self._lease
                lease.users += 1

            def note(names: set[str]) -> None:
                if self._folder:
                    files = index_files(self._folder)
                    # Files of broken collections stay as they were, so that these stay broken.
                    rest = {name: pending[name] for name in pending if name not in sound | {collection}}
                    with self._state:
                        journal = write_journal(self._folder, {**rest, **dict.fromkeys(names, files)})
                        self._revision = journal.revision

            others = sound - {collection}
            broken = collection in pending and collection not in sound
            try:
                yield Write(lease.client, broken, lambda: note(others | {collection}))
                note(others)
            finally:
                with self._state:
                    self._is_writing = False
                    lease.users -= 1
                    _close_if_done(lease)

    def is_broken(self, collection: str) -> bool:
        """Whether the last write of a collection was killed while Chroma wrote its index files."""
        if self._folder is None or collection not in read_journal(self._folder).pending:
            return False
        # Files change while somebody writes; only when nobody does, a difference means harm.
        with free_to_write(self.location) as is_free:
            return is_free and collection in read_journal(self._folder).broken(self._folder)

    def refresh(self) -> bool:
        """Open the store anew, unless it is being written to here; return whether that was done."""
        with self._state:
            if self._folder is None or self._is_writing:
                return False
            self._reopen(read_journal(self._folder).revision)
            return True

    def _reopen(self, revision: str) -> None:
        logger.info("opening %s anew", self.location)
        client = open_client(self.location, create=False, anew=True)
        old, self._lease, self._revision = self._lease, _Lease(client, self.location), revision
        weakref.finalize(self, _retire, self._lease).atexit = False
        _retire(old)


class Write:
    """A write in progress.

    Parameters
    ----------
    client
        To write with.
    broken
        The last write of this collection was killed while Chroma wrote its index files, so that its vectors
        cannot be trusted.
    checkpoint
        To be called when a batch is in the index: what follows may be killed.
    """

    def __init__(self, client: ClientAPI, broken: bool, checkpoint: Callable[[], None]) -> None:
        self.client = client
        self.broken = broken
        self.checkpoint = checkpoint


def _retire(lease: _Lease) -> None:
    lease.retired = True
    _close_if_done(lease)


def _close_if_done(lease: _Lease) -> None:
    # Once only: Chroma counts closings by path, and the path may belong to a newer client by then.
    if not lease.retired or lease.users or lease.closed:
        return
    lease.closed = True
    if lease.in_memory:  # all in-memory stores share one system that lives on and would keep the rows
        for collection in lease.client.list_collections():
            delete_collection(lease.client, collection.name)
    lease.client.close()
