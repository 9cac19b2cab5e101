"""One Chroma client for each store of a process, opened anew when another process has written to it."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from chromadb.api import ClientAPI

from reges_index.catalog.collection import delete_collection
from reges_index.catalog.journal import Files, index_files, read_journal, write_journal
from reges_index.catalog.store import StoreLocation, free_to_write, open_client, store_errors, write_lock

__all__ = ["StoreHandle"]

logger = logging.getLogger(__name__)


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
        client = open_client(self.location, create=False)
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
