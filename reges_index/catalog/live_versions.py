"""The versions of one live catalog: which there are, which is live, and which of them are being read."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from reges_index.catalog.catalog import ItemCatalog
from reges_index.catalog.item import Item
from reges_index.catalog.live_state import LiveState, StateFile, first_state, version_name
from reges_index.catalog.place import CatalogPlace
from reges_index.catalog.stores.base import Table
from reges_index.catalog.sync import check_whole
from reges_index.errors import InputError, ReGeSError, StoreNotFoundError

__all__ = ["PINNED", "CatalogVersion", "LiveVersions", "OpenVersion"]

if TYPE_CHECKING:
    from typing import Unpack

logger = logging.getLogger(__name__)


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


class LiveVersions:
    """Follows the state of a live catalog, its own changes and those of other processes.

    Parameters
    ----------
    catalog
        The live version; new ones are made like it.
    base
        Name of the live catalog, which the versions' tables are called after.
    file
        Where the state is kept; None keeps it in this process only.
    state
        The state to begin with.
    """

    def __init__(self, catalog: ItemCatalog, base: str, file: StateFile | None, state: LiveState) -> None:
        self.first = catalog
        self.base = base
        self.file = file
        self.state = state
        self._open = {state.live: OpenVersion(state.live, catalog)}
        self._changing = threading.RLock()  # held while a version is built: by no reader
        self._looking = threading.RLock()  # held for moments, while the state is read or replaced
        self._refresh()

    @classmethod
    def at(
        cls,
        table: Table,
        file: StateFile | None,
        *,
        create: bool,
        **place: Unpack[CatalogPlace],
    ) -> LiveVersions:
        """Open the live catalog that is called after a table, at the version that was live last.

        The rest is as for `ItemCatalog.over`.
        """
        base = table.name
        state = None if file is None else file.changed()
        if state is not None:
            table = table.sibling(state.names[state.live])
        is_new = create and state is None and base not in table.names()
        catalog = ItemCatalog.over(table, create=create and state is None, **place)
        versions = cls(catalog, base, file, state or first_state(base, is_borrowed=not is_new))
        if is_new and file is not None:  # so that a restart knows whose the first version is
            with versions.change():
                versions._adopt(versions.state, write=True)
        return versions

    # -- reading -----------------------------------------------------------------------------------------

    def now(self, pinned: OpenVersion | None, *, hold: bool = False) -> OpenVersion:
        """Return the version that is pinned, or else the live one; with `hold`, as one that is being read."""
        version = pinned
        with self._looking:
            # A task that outlives its turn still has the turn's pin; what it named may be gone by then.
            if version is None or version.is_gone:
                self._refresh()
                version = self._live
            version.readers += hold
            return version

    @contextmanager
    def held(self, pinned: OpenVersion | None) -> Iterator[OpenVersion]:
        """Keep the version of `now` from being deleted until the end."""
        version = self.now(pinned, hold=True)
        try:
            yield version
        finally:
            with self._looking:
                version.readers -= 1
                is_last = version.is_retired and not version.readers
            if is_last:
                self._discard(version, at_once=False)

    def listed(self) -> list[CatalogVersion]:
        """List the versions that are kept, by number, but for those that somebody has dropped by hand."""
        with self._looking:
            self._refresh()
            return [self.told(number) for number in sorted(self.state.names) if not self._is_lost(number)]

    def past(self, keep: int) -> list[int]:
        """Numbers of all versions but the live one and the `keep` that were live last.

        What somebody has dropped by hand is past, and does not count as kept.
        """
        with self._looking:
            lost = frozenset(filter(self._is_lost, self.state.names))
            return sorted([*lost, *self.state.without(lost).past(keep)])

    def told(self, number: int) -> CatalogVersion:
        """Return what callers are told of a version."""
        catalog = self._opened(number, self.state).catalog
        return CatalogVersion(number, catalog.name, len(catalog), number == self.state.live)

    def _is_lost(self, number: int) -> bool:
        """Whether the store does not have a version any more; of the live one that is the caller's error."""
        try:
            self.told(number)
        except StoreNotFoundError:
            if number == self.state.live:
                raise
            return True
        return False

    def number_of(self, catalog: ItemCatalog) -> int | None:
        """Return the number of the version that a catalog is, if it is one."""
        one = (catalog.name, catalog.table.home)
        for number, name in self.state.names.items():
            # What is not open here is in the same store; a catalog of another one is always open.
            version = self._open.get(number)
            if one == (name, (version.catalog if version else self.first).table.home):
                return number
        return None

    # -- changing: all of it inside `change` -------------------------------------------------------------

    @contextmanager
    def change(self) -> Iterator[None]:
        """Let one caller of one process change versions at a time; readers do not wait."""
        with self._changing, nullcontext() if self.file is None else self.file.locked():
            with self._looking:
                self._refresh()
            yield

    def check(self, catalog: ItemCatalog) -> None:
        """Check that a catalog is fit to go live, so that a broken one never gets there."""
        check_whole(catalog.table, catalog.encoder, self.first.encoder, catalog.item_of)

    def add(self, catalog: ItemCatalog, *, is_borrowed: bool) -> CatalogVersion:
        """Make a catalog the next version, and the live one."""
        number = self.state.following
        state = self.state.with_version(catalog.name, is_borrowed=is_borrowed)
        self._adopt(state, write=True, opened=OpenVersion(number, catalog))
        return self.told(number)

    def build(
        self, items: Iterable[Item], *, source: ItemCatalog | None, show_progress: bool
    ) -> CatalogVersion:
        """Make a catalog of the items beside the live version and, once it is whole and checked, add it.

        Vectors are taken over from `source`, or else from the live version. Whatever is raised before it is
        live, what was built goes.
        """
        self._pass_over_taken_names()
        candidate = self.first.beside(version_name(self.base, self.state.following))
        try:
            known = self._live.catalog if source is None else source
            candidate.sync(items, show_progress=show_progress, source=known)
            self.check(candidate)
            return self.add(candidate, is_borrowed=False)
        except BaseException:
            if candidate.name not in self.state.names.values():  # what is live already stays
                _drop(candidate)
            raise

    def _pass_over_taken_names(self) -> None:
        """Use no number whose name in the store belongs to a finished catalog: that one is somebody's own.

        An unfinished one is what a killed swap has left; it is gone on with.
        """
        present = set(self.first.table.names())
        following = self.state.following
        while (name := version_name(self.base, following)) in present:
            table = self.first.table.sibling(name)
            record = table.record()
            if record.broken or not record.complete or not table.ids():
                break
            logger.warning("the store has a catalog %r that is no version of %r: left alone", name, self.base)
            following += 1
        with self._looking:
            self.state = replace(self.state, following=following)

    def return_to(self, to: int | None) -> CatalogVersion:
        """Make a version live that was so before; None is the one before this one. See `rollback`."""
        state = self.state
        if to is None:
            if len(state.history) < 2:
                raise InputError("there is no earlier version", hint="versions() lists what is kept")
            to, history = state.history[-2], state.history[:-1]
        elif to in state.names:
            history = (*(number for number in state.history if number != to), to)
        else:
            raise InputError(f"there is no version {to}", hint="versions() lists what is kept")
        self.check(self._opened(to, state).catalog)
        self._adopt(replace(state, history=history), write=True)
        return self.told(to)

    def forget(self, numbers: Collection[int]) -> None:
        """Forget versions, and delete those that were made for this catalog once nobody reads them."""
        state = self.state
        doomed = [
            self._opened(number, state)
            for number in numbers
            if number not in state.borrowed and not self._is_lost(number)
        ]
        self._adopt(state.without(frozenset(numbers)), write=True)
        for version in doomed:
            with self._looking:
                version.is_retired = True
                is_free = not version.readers
            if is_free:
                self._discard(version)

    @property
    def _live(self) -> OpenVersion:
        return self._open[self.state.live]

    def _adopt(self, state: LiveState, *, write: bool, opened: OpenVersion | None = None) -> None:
        """Make a state the one that readers see, at one stroke."""
        with self._looking:
            live = opened or self._opened(state.live, state)
            if write and self.file is not None:
                self.file.write(state)
            self._open = {number: kept for number, kept in self._open.items() if number in state.names}
            self._open[live.number] = live
            self.state = state

    def _refresh(self) -> None:
        """See what another process has made live."""
        with self._looking:
            if self.file is not None and (changed := self.file.changed()) is not None:
                try:
                    self._adopt(changed, write=False)
                except BaseException:
                    self.file.forget()  # or the next look would find nothing new, and the old one stay live
                    raise

    def _opened(self, number: int, state: LiveState) -> OpenVersion:
        with self._looking:
            if number not in self._open:
                catalog = self.first.beside(state.names[number], create=False)
                self._open[number] = OpenVersion(number, catalog)
            return self._open[number]

    def _discard(self, version: OpenVersion, *, at_once: bool = True) -> None:
        with self._looking:
            if version.is_gone:
                return
            version.is_gone = True
        if at_once:
            _drop(version.catalog)
        else:  # a turn has ended, on an event loop perhaps: it must not wait for who writes to the store
            threading.Thread(target=_drop, args=(version.catalog,), name="reges-prune").start()


def _drop(catalog: ItemCatalog) -> None:
    try:
        catalog.drop()
    except StoreNotFoundError:  # somebody was faster
        return
    except ReGeSError as error:  # it does no harm where it is, and must not hide what went before
        logger.warning("%s could not be deleted: %s", catalog, error)
