"""`LiveCatalog`: a catalog that can be swapped for another while chats run."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from llama_index.core.base.embeddings.base import BaseEmbedding

from reges_index.catalog.catalog import ItemCatalog, SyncReport, table_in, unique_items
from reges_index.catalog.item import Item
from reges_index.catalog.live_state import (
    LiveState,
    StateFile,
    first_state,
    live_in,
    usual_state_file,
    version_name,
)
from reges_index.catalog.place import CatalogPlace, place_of
from reges_index.catalog.reader import CatalogReader
from reges_index.catalog.stores import check_whole
from reges_index.catalog.stores.base import AnyTable
from reges_index.dialogue import TitleIndex
from reges_index.errors import InputError, ReGeSError, StoreNotFoundError

if TYPE_CHECKING:
    from typing import Unpack

logger = logging.getLogger(__name__)

T = TypeVar("T")


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
class _Version:
    """An open version: how many read it, whether it goes when they are done, and whether it is gone."""

    number: int
    catalog: ItemCatalog
    readers: int = 0
    is_retired: bool = False
    is_gone: bool = False

    def __post_init__(self) -> None:
        self.derived: weakref.WeakKeyDictionary[object, Any] = weakref.WeakKeyDictionary()
        self.deriving = threading.RLock()


# What the running turn has pinned, by live catalog. Tasks and ``asyncio.to_thread`` inherit it.
_PINNED: ContextVar[Mapping[object, _Version]] = ContextVar("reges_pinned", default=MappingProxyType({}))


class LiveCatalog(CatalogReader):
    """Versions of a catalog, of which one is live.

    Takes the place of an `ItemCatalog` wherever one is read. A swap builds the new version beside the old
    one, checks it, and then switches one reference: a reader sees the old version or the new one, never a
    mixture or none. Engines pin the version for a whole turn (`pinned`). Nothing is trained again.

    Parameters
    ----------
    catalog
        The first version. It stays yours: `prune` does not delete it.
    state_file
        Where to keep which version is live, for restarts and for other processes, which see a swap at their
        next turn; None keeps it in this process only. `open` and `from_items` choose it for folders.

    Examples
    --------
    >>> from reges_index import Item, ItemCatalog, LiveCatalog
    >>> films = LiveCatalog(ItemCatalog.from_items([Item(id="1", title="Alien")]))
    >>> films.swap([Item(id="1", title="Alien"), Item(id="2", title="Aliens")]).number
    2
    >>> films.rollback().number
    1
    >>> films.ids()
    ['1']
    """

    def __init__(self, catalog: ItemCatalog, *, state_file: str | Path | None = None) -> None:
        file = None if state_file is None else StateFile(Path(state_file))
        self._begin(catalog, catalog.name, file, first_state(catalog.name))

    def _begin(self, catalog: ItemCatalog, base: str, file: StateFile | None, state: LiveState) -> None:
        """Begin with a state, of which `catalog` is the live version; new versions are made like it."""
        super().__init__(catalog.encoder, catalog._embed_model, catalog.template)
        self.base_name = base
        self._first = catalog
        self._file = file
        self._state = state
        self._open = {state.live: _Version(state.live, catalog)}
        self._changing = threading.RLock()  # held while a version is built: by no reader
        self._looking = threading.RLock()  # held for moments, while the state is read or replaced
        self._refresh()

    @classmethod
    def open(
        cls,
        persist_dir: str | Path | None = None,
        *,
        state_file: str | Path | None = None,
        create: bool = False,
        **place: Unpack[CatalogPlace],
    ) -> LiveCatalog:
        """Open a catalog at the version that was live last; parameters and errors as for `ItemCatalog.open`.

        Parameters
        ----------
        state_file
            None takes ``.reges-live-NAME.json`` in the folder of the store. Where `url` or `vector_store`
            names the store there is no such folder: name a file, or every start begins with version 1.
        """
        table, location = table_in(persist_dir, place, create=create)
        if state_file is None and place.get("vector_store") is None and location.persist_dir is not None:
            state_file = usual_state_file(location.persist_dir, table.name)
        file = None if state_file is None else StateFile(Path(state_file))
        base = table.name
        state = None if file is None else file.changed()
        if state is not None:
            table = table.sibling(state.names[state.live])
        is_new = create and state is None and base not in table.names()
        catalog = ItemCatalog.over(table, create=create and state is None, **place)
        live = cls.__new__(cls)
        live._begin(catalog, base, file, state or first_state(base, is_borrowed=not is_new))
        if is_new and file is not None:  # so that a restart knows whose the first version is
            with live._change():
                live._adopt(live._state, write=True)
        return live

    @classmethod
    def from_items(
        cls,
        items: Iterable[Item],
        *,
        persist_dir: str | Path | None = None,
        state_file: str | Path | None = None,
        show_progress: bool = False,
        **place: Unpack[CatalogPlace],
    ) -> LiveCatalog:
        """Return a live catalog of exactly these items; a store that has one gets a new version if need be.

        Parameters and errors are those of `open` and `swap`.
        """
        checked = unique_items(items)
        live = cls.open(persist_dir, state_file=state_file, create=True, **place)
        with live.lent() as table:
            held = table.marks()
        if not held:
            live.current.sync(checked, show_progress=show_progress)
        elif held != {item.id: item.content_hash for item in checked}:
            live.swap(checked, show_progress=show_progress)
        return live

    @property
    def state_file(self) -> Path | None:
        """Where it is kept which version is live; None if in this process only."""
        return None if self._file is None else self._file.path

    @property
    def current(self) -> ItemCatalog:
        """The version that the running turn has pinned, or else the live one."""
        return self._now(_PINNED.get().get(self)).catalog

    @property
    def table(self) -> AnyTable:
        """The table of `current`."""
        return self.current.table

    @contextmanager
    def pinned(self) -> Iterator[ItemCatalog]:
        """Keep to one version for a whole turn, whatever is swapped meanwhile.

        All that reads this catalog inside, also in tasks and in ``asyncio.to_thread``, sees the version that
        was live on entry, and `prune` leaves it alone until the end. Inside another such block it keeps to
        the outer one's.
        """
        if self in (pins := _PINNED.get()):
            yield self.current
            return
        with self._held() as version:
            token = _PINNED.set(MappingProxyType({**pins, self: version}))
            try:
                yield version.catalog
            finally:
                _PINNED.reset(token)

    @contextmanager
    def lent(self) -> Iterator[AnyTable]:
        """Lend the table of `current` for one call."""
        with self._held() as version:
            yield version.catalog.table

    def titles(self) -> TitleIndex:
        """Return the index of the titles of `current`."""
        return self.current.titles()

    def derived(self, owner: object, build: Callable[[ItemCatalog], T]) -> T:
        """Return what `build` makes of `current`; made once for each owner and version, and kept with it."""
        with self._held() as version, version.deriving:
            if owner not in version.derived:
                version.derived[owner] = build(version.catalog)
            made: T = version.derived[owner]
            return made

    def swap(self, new: Iterable[Item] | ItemCatalog, *, show_progress: bool = False) -> CatalogVersion:
        """Make a new version and, once it is whole and checked, the live one.

        Parameters
        ----------
        new
            Items, which are put into the store of the live version (vectors of items that have not changed
            are taken over); or a catalog of yours, which becomes a version as it is (with a state file it is
            copied, unless it is in the same store). Leave it alone while it is in use.
        show_progress
            Show a progress bar on stderr.

        Returns
        -------
        CatalogVersion
            The new one.

        Raises
        ------
        InputError
            If there are no items, or ids repeat.
        EncoderMismatchError
            If the catalog has another encoder.
        CatalogError
            If the catalog is half-written, or an item of it has no vector or cannot be read.
        StorageError
            If the disk is full. Whatever is raised, the old version stays live, and what was built goes.
        """
        given = new if isinstance(new, ItemCatalog) else None
        items = [] if isinstance(new, ItemCatalog) else unique_items(new)
        with self._change():
            if given is not None:
                self._check(given)
                if (number := self._number_of(given)) is not None:
                    return self.rollback(number)
                if self._file is None or given.table.home == self._first.table.home:
                    return self._add(given, is_borrowed=True)
                items = list(given.items())
            return self._build(items, given or self._open[self._state.live].catalog, show_progress)

    def rollback(self, to: int | None = None) -> CatalogVersion:
        """Make a version live again that was so before.

        Parameters
        ----------
        to
            Its number; None is the version that was live before this one.

        Raises
        ------
        InputError
            If there is no such version.
        CatalogError
            If it is not whole any more; the live one then stays.
        """
        with self._change():
            state = self._state
            if to is None:
                if len(state.history) < 2:
                    raise InputError("there is no earlier version", hint="versions() lists what is kept")
                to, history = state.history[-2], state.history[:-1]
            elif to in state.names:
                history = (*(number for number in state.history if number != to), to)
            else:
                raise InputError(f"there is no version {to}", hint="versions() lists what is kept")
            self._check(self._opened(to, state).catalog)
            self._adopt(state.model_copy(update={"history": history}), write=True)
            return self._told(to)

    def add(self, items: Iterable[Item], *, show_progress: bool = False) -> SyncReport:
        """Add items to the live version, or replace those that have changed, as `ItemCatalog.add` does.

        What is changing versions meanwhile, here or in another process, is waited for: the items go into what
        it makes live, and none is lost. Other versions stay as they are, so a rollback takes items back; and
        so do turns that have pinned one. Turns over the live version see the items as they are written.
        """
        checked = unique_items(items)
        with self._changing_items() as catalog:
            return catalog.add(checked, show_progress=show_progress)

    def remove(self, ids: Iterable[str]) -> int:
        """Remove items from the live version, as `ItemCatalog.remove` does; else as `add`."""
        with self._changing_items() as catalog:
            return catalog.remove(ids)

    def sync(self, items: Iterable[Item], *, show_progress: bool = False) -> SyncReport:
        """Make the live version hold exactly these items; else as `add`.

        Unlike after a `swap`, readers see some items in their new form before others, and there is no version
        to go back to.
        """
        checked = unique_items(items)
        with self._changing_items() as catalog:
            return catalog.sync(checked, show_progress=show_progress)

    @contextmanager
    def _changing_items(self) -> Iterator[ItemCatalog]:
        """Lend the live version, whatever the running turn has pinned; it stays live until the end."""
        with self._change():
            yield self._now(None).catalog

    def versions(self) -> list[CatalogVersion]:
        """List the versions that are kept and that the store still has, by number."""
        with self._looking:
            self._refresh()
            return [self._told(number) for number in sorted(self._state.names) if not self._is_lost(number)]

    def prune(self, keep: int = 1) -> list[int]:
        """Forget old versions, and delete those that this class has made from the store.

        One that a running turn of this process still reads is deleted once the turn has ended. With several
        processes, wait as long as a turn takes between a swap and this.

        Parameters
        ----------
        keep
            How many to keep beside the live one: those that were live last.

        Returns
        -------
        list of int
            Numbers of what was forgotten.
        """
        if keep < 0:
            raise InputError(f"keep is {keep}", hint="keep 0 or more")
        with self._change():
            state = self._state
            # What somebody has dropped by hand is past, and does not count as kept.
            lost = frozenset(filter(self._is_lost, state.names))
            if gone := sorted([*lost, *state.without(lost).past(keep)]):
                doomed = [self._opened(number, state) for number in {*gone} - state.borrowed - lost]
                self._adopt(state.without(frozenset(gone)), write=True)
                for version in doomed:
                    with self._looking:
                        version.is_retired = True
                        is_free = not version.readers
                    if is_free:
                        self._discard(version)
            return gone

    # -- reading -----------------------------------------------------------------------------------------

    def _now(self, pinned: _Version | None, *, hold: bool = False) -> _Version:
        """Return the version that is pinned, or else the live one; with `hold`, as one that is being read."""
        version = pinned
        with self._looking:
            # A task that outlives its turn still has the turn's pin; what it named may be gone by then.
            if version is None or version.is_gone:
                self._refresh()
                version = self._open[self._state.live]
            version.readers += hold
            return version

    @contextmanager
    def _held(self) -> Iterator[_Version]:
        """Keep the version of `current` from being deleted until the end."""
        version = self._now(_PINNED.get().get(self), hold=True)
        try:
            yield version
        finally:
            with self._looking:
                version.readers -= 1
                is_last = version.is_retired and not version.readers
            if is_last:  # a turn has ended, on an event loop perhaps: it must not wait for who writes there
                threading.Thread(target=self._discard, args=(version,), name="reges-prune").start()

    def _told(self, number: int) -> CatalogVersion:
        """Return what callers are told of a version."""
        catalog = self._opened(number, self._state).catalog
        return CatalogVersion(number, catalog.name, len(catalog), number == self._state.live)

    def _is_lost(self, number: int) -> bool:
        """Whether the store does not have a version any more; of the live one that is the caller's error."""
        try:
            self._told(number)
        except StoreNotFoundError:
            if number == self._state.live:
                raise
            return True
        return False

    def _number_of(self, catalog: ItemCatalog) -> int | None:
        """Return the number of the version that a catalog is, if it is one."""
        for number, name in self._state.names.items():
            # What is not open here is in the same store; a catalog of another one is always open.
            known = self._open[number].catalog if number in self._open else self._first
            if (catalog.name, catalog.table.home) == (name, known.table.home):
                return number
        return None

    # -- changing: all of it inside `_change` ------------------------------------------------------------

    @contextmanager
    def _change(self) -> Iterator[None]:
        """Let one caller of one process change versions at a time; readers do not wait."""
        with self._changing, nullcontext() if self._file is None else self._file.locked():
            with self._looking:
                self._refresh()
            yield

    def _check(self, catalog: ItemCatalog) -> None:
        """Check that a catalog is fit to go live, so that a broken one never gets there."""
        check_whole(catalog.table, catalog.encoder, self.encoder)

    def _add(self, catalog: ItemCatalog, *, is_borrowed: bool) -> CatalogVersion:
        """Make a catalog the next version, and the live one."""
        number = self._state.following
        state = self._state.with_version(catalog.name, is_borrowed=is_borrowed)
        self._adopt(state, write=True, opened=_Version(number, catalog))
        return self._told(number)

    def _build(self, items: Sequence[Item], source: ItemCatalog, show_progress: bool) -> CatalogVersion:
        """Make a catalog of the items beside the live version and, once it is whole and checked, add it.

        Vectors are taken over from `source`. Whatever is raised before it is live, what was built goes.
        """
        self._pass_over_taken_names()
        candidate = self._first.beside(version_name(self.base_name, self._state.following))
        try:
            candidate.sync(items, show_progress=show_progress, source=source)
            self._check(candidate)
            return self._add(candidate, is_borrowed=False)
        except BaseException:
            if candidate.name not in self._state.names.values():  # what is live already stays
                _drop(candidate)
            raise

    def _pass_over_taken_names(self) -> None:
        """Use no number whose name in the store belongs to a finished catalog: that one is somebody's own.

        An unfinished one is what a killed swap has left; it is gone on with.
        """
        store = self._first.table
        present = set(store.names())
        following = self._state.following
        while (name := version_name(self.base_name, following)) in present:
            table = store.sibling(name)
            record = table.record()
            if record.broken or not record.complete or not table.ids():
                break
            logger.warning(
                "the store has a catalog %r that is no version of %r: left alone", name, self.base_name
            )
            following += 1
        with self._looking:
            self._state = self._state.model_copy(update={"following": following})

    def _adopt(self, state: LiveState, *, write: bool, opened: _Version | None = None) -> None:
        """Make a state the one that readers see, at one stroke."""
        with self._looking:
            live = opened or self._opened(state.live, state)
            if write and self._file is not None:
                self._file.write(state)
            self._open = {number: kept for number, kept in self._open.items() if number in state.names}
            self._open[live.number] = live
            self._state = state

    def _refresh(self) -> None:
        """See what another process has made live."""
        with self._looking:
            if self._file is not None and (changed := self._file.changed()) is not None:
                try:
                    self._adopt(changed, write=False)
                except BaseException:
                    self._file.forget()  # or the next look would find nothing new, and the old one stay live
                    raise

    def _opened(self, number: int, state: LiveState) -> _Version:
        with self._looking:
            if number not in self._open:
                catalog = self._first.beside(state.names[number], create=False)
                self._open[number] = _Version(number, catalog)
            return self._open[number]

    def _discard(self, version: _Version) -> None:
        with self._looking:
            is_gone, version.is_gone = version.is_gone, True
        if not is_gone:
            _drop(version.catalog)


def _drop(catalog: ItemCatalog) -> None:
    try:
        catalog.drop()
    except StoreNotFoundError:  # somebody was faster
        return
    except ReGeSError as error:  # it does no harm where it is, and must not hide what went before
        logger.warning("%s could not be deleted: %s", catalog, error)


def open_catalog_at(
    store: str, name: str, encoder: BaseEmbedding | str | None, *, live: bool = False
) -> ItemCatalog | LiveCatalog:
    """Open a catalog in a folder, ``qdrant:FOLDER``, ``lancedb:FOLDER`` or at ``http://host:port``.

    One that its folder says is live, or with `live`, is open at its live version. Errors are those of
    `ItemCatalog.open`.
    """
    kind: type[ItemCatalog] | type[LiveCatalog] = (
        LiveCatalog if live or name in live_in(store) else ItemCatalog
    )
    return kind.open(**place_of(store), name=name, embed_model=encoder)
