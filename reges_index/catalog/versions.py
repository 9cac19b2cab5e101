"""Versions of a live catalog that a process has open, and which of them a turn has pinned."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from reges_index.catalog.catalog import ItemCatalog

__all__ = ["PINNED", "CatalogVersion", "OpenVersion"]


class CatalogVersion(NamedTuple):
    """One version of a live catalog.

    Parameters
    ----------
    number
        Counts up from 1 and is never used again.
    name
        Of the catalog that holds it, in its store.
    items
        How many it has.
    is_live
        Whether new turns see it.
    """

    number: int
    name: str
    items: int
    is_live: bool


@dataclass(eq=False)
class OpenVersion:
    """An open version: how many read it, whether it goes when they are done, and whether it is gone."""

    number: int
    catalog: ItemCatalog
    readers: int = 0
    is_retired: bool = False
    is_gone: bool = False

    def __post_init__(self) -> None:
        self.derived: weakref.WeakKeyDictionary[object, Any] = weakref.WeakKeyDictionary()
        self.deriving = threading.RLock()


PINNED: ContextVar[Mapping[object, OpenVersion]] = ContextVar("reges_pinned", default=MappingProxyType({}))
"""What the running turn has pinned, by live catalog. Tasks and ``asyncio.to_thread`` inherit it."""
