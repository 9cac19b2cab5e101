"""What every store needs around its calls: a lock for writers, and errors that say what to do."""

from __future__ import annotations

import errno
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from reges_index.catalog.place import StoreLocation
from reges_index.errors import CatalogError, ReGeSError, StorageError, StoreNotFoundError

__all__ = ["LOCK_FILE", "free_to_write", "store_errors", "write_lock"]

logger = logging.getLogger(__name__)

LOCK_FILE = ".reges.lock"

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


@contextmanager
def write_lock(location: StoreLocation) -> Iterator[None]:
    """Let one process at a time write to a folder; the operating system frees the lock of a killed one.

    Servers and memory have no folder to lock: memory belongs to one process, and on a server syncs of the
    same items may overlap without harm, while those of different items need care by the caller.
    """
    if location.persist_dir is None:
        yield
        return
    lock = FileLock(location.persist_dir / LOCK_FILE)
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
    lock = FileLock(location.persist_dir / LOCK_FILE)
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
    except OSError as error:
        reason = _ERRNO_STORAGE.get(error.errno or 0, error.strerror or str(error))
        raise StorageError(f"{where}: {reason}", hint=_STORAGE_HINT) from error
    except Exception as error:
        # Imported where it is needed: other stores do without Chroma.
        import httpx
        from chromadb.errors import ChromaError, NotFoundError

        if isinstance(error, NotFoundError):
            hint = "it was deleted; index the items again"
            raise StoreNotFoundError(f"{where}: {error}", hint=hint) from error
        if isinstance(error, ChromaError):
            raise _from_text(where, str(error), folder) from error
        if isinstance(error, httpx.HTTPError):
            raise CatalogError(
                f"{where}: the Chroma server does not answer: {error}",
                hint="is `chroma run` still running?",
            ) from error
        raise


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
