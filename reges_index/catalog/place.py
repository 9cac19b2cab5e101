"""Where catalogs are kept: folders, servers and memory, with their locks and errors."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict
from urllib.parse import urlsplit

from filelock import FileLock

from reges_index.errors import InputError, ReGeSError, StorageError, StoreNotFoundError

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.vector_stores.types import BasePydanticVectorStore

    from reges_index.catalog.fields import FieldNames
    from reges_index.catalog.item import TextTemplate

logger = logging.getLogger(__name__)

KINDS = ("chroma", "qdrant", "lancedb")
"""Kinds of store that hold catalogs."""

LOCK_FILE = ".reges.lock"

ERRNO_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file size limit is reached",
    errno.EROFS: "it is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EIO: "the disk does not answer",
}
STORAGE_HINT = "free some space or choose a folder that can be written; the sync goes on where it stopped"

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]")


class CatalogPlace(TypedDict, total=False):
    """Which catalog is meant and how it is read: what opening and making one have in common.

    Parameters
    ----------
    url
        Address of a Chroma server, ``http://host:port``, instead of a folder.
    vector_store
        A ``ChromaVectorStore``, ``QdrantVectorStore`` or ``LanceDBVectorStore`` instead of both; it says the
        name too.
    name
        Of the catalog, "items" by default; a store may hold several.
    embed_model
        The encoder, as for `reges_index.catalog.encoder.resolve_encoder`; None is all-MiniLM-L6-v2. The
        default is loaded when first needed.
    template
        Of the embedded text; None is `DEFAULT_TEMPLATE`.
    title_key
        Of a collection made elsewhere: the metadata key that holds an item's title, where it is not called
        ``title``, ``name`` or ``product``.
    field_names
        The same for any field: ``{"title": "label", "year": "released"}``, or a `FieldNames`.
    """

    url: str | None
    vector_store: BasePydanticVectorStore | None
    name: str
    embed_model: BaseEmbedding | str | None
    template: TextTemplate | None
    title_key: str | None
    field_names: FieldNames | Mapping[str, str] | None


def is_url(store: str) -> bool:
    """Whether a store is a server."""
    return store.startswith(("http://", "https://"))


def place_of(store: str) -> dict[str, Any]:
    """Return the arguments of `ItemCatalog.open` for a folder or an address."""
    return {"url": store} if is_url(store) else {"persist_dir": store}


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
            host_and_port(url)
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


def host_and_port(url: str) -> tuple[str, int, bool]:
    """Take the address of a Chroma server apart: host, port, and whether it is https."""
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


def no_store(where: str, found: str = "no store") -> StoreNotFoundError:
    """Return the error for a place without a store."""
    return StoreNotFoundError(
        f"{where}: there is {found}", hint="check the path, or index the items there first"
    )


@contextmanager
def store_errors(
    where: str, explained: Callable[[Exception], ReGeSError | None] | None = None
) -> Iterator[None]:
    """Translate errors of the file system and of a store's library into those of this package.

    Parameters
    ----------
    where
        What the errors name.
    explained
        Returns what an error of the library means; None if it is none.
    """
    try:
        yield
    except ReGeSError:
        raise
    except OSError as error:
        reason = ERRNO_REASONS.get(error.errno or 0, error.strerror or str(error))
        raise StorageError(f"{where}: {reason}", hint=STORAGE_HINT) from error
    except Exception as error:
        told = explained(error) if explained is not None else None
        if told is None:
            raise
        raise told from error


@contextmanager
def write_lock(location: StoreLocation, *, wait: bool = True) -> Iterator[bool]:
    """Let one process at a time write to a folder; the operating system frees the lock of a killed one.

    Tells whether the lock is held, which it always is in the end unless `wait` is false. Servers and memory
    have no folder to lock: memory belongs to one process, and on a server syncs of the same items may overlap
    without harm, while those of different items need care by the caller.
    """
    if location.persist_dir is None:
        yield True
        return
    lock = FileLock(location.persist_dir / LOCK_FILE)
    with store_errors(str(location)):
        with suppress(TimeoutError):
            lock.acquire(blocking=False)
        if wait and not lock.is_locked:
            logger.info("waiting for another process that writes to %s", location)
            lock.acquire()
    try:
        yield lock.is_locked
    finally:
        lock.release()
