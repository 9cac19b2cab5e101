"""What LanceDB's errors mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from reges_index.catalog.store import store_errors
from reges_index.errors import CatalogError, ReGeSError, StorageError, StoreNotFoundError

__all__ = ["lance_errors"]


@contextmanager
def lance_errors(where: str) -> Iterator[None]:
    """Translate errors of LanceDB, which are plain RuntimeError, ValueError and OSError with a text."""
    try:
        with store_errors(where):
            yield
    except ReGeSError:
        raise
    except (RuntimeError, ValueError) as error:
        text = str(error)
        if "No space left" in text or "os error 28" in text:
            raise StorageError(
                f"{where}: the disk is full", hint="free some space, then sync again"
            ) from error
        if "Not found" in text or "was not found" in text:
            raise StoreNotFoundError(f"{where}: {text}", hint="index the items again") from error
        raise CatalogError(f"{where}: LanceDB says: {text}", hint="see LanceDB's message") from error
