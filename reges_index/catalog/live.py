"""`LiveCatalog`: a catalog that can be swapped for another while chats run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from reges_index.catalog.catalog import ItemCatalog
from reges_index.catalog.encoder import EncoderIdentity
from reges_index.catalog.item import Item
from reges_index.catalog.live_state import LiveState, StateFile, usual_state_file, version_name
from reges_index.catalog.reader import CatalogReader
from reges_index.catalog.store import StoreLocation
from reges_index.catalog.stores import Table, table_at, table_of
from reges_index.catalog.sync import unique_items
from reges_index.catalog.template import TextTemplate
from reges_index.catalog.versions import PINNED, CatalogVersion, OpenVersion
from reges_index.catalog.wholeness import check_whole
from reges_index.errors import InputError, ReGeSError

__all__ = ["LiveCatalog"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


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
        self._begin(catalog, catalog.name, file, LiveState({1: catalog.name}, (1,), 2, frozenset({1})))

    def _begin(self, catalog: ItemCatalog, base: str, file: StateFile | None, state: LiveState) -> None:
        self._pattern = catalog  # what new versions are made like
        self._base = base
        self._file = file
        self._state = state
        self._open = {state.live: OpenVersion(state.live, catalog)}
        self._changing = threading.RLock()  # held while a version is built: by no reader
        self._looking = threading.RLock()  # held for moments, while the state is read or replaced
        self._refresh()

    @classmethod
    def open(
        cls,
        persist_dir: str | Path | None = None,
        *,
        url: str | None = None,
        vector_store: BasePydanticVectorStore | None = None,
        name: str = "items",
        embed_model: BaseEmbedding | str | None = None,
        template: TextTemplate | None = None,
        state_file: str | Path | None = None,
        create: bool = False,
    ) -> LiveCatalog:
        """Open a catalog at the version that was live last; parameters and errors as for `ItemCatalog.open`.

        Parameters
        ----------
        state_file
            None takes ``.reges-live-NAME.json`` in the folder of the store. Where `url` or `vector_store`
            names the store there is no such folder: name a file, or every start begins with version 1.
        """
        location = StoreLocation.of(persist_dir, url)
        if vector_store is None and persist_dir is None and url is None and not create:
            raise InputError("no store is named", hint="pass persist_dir, url or vector_store")
        table = table_at(location, name, create=create) if vector_store is None else table_of(vector_store)
        base = table.name
        if state_file is None and vector_store is None and location.persist_dir is not None:
            state_file = usual_state_file(location.persist_dir, base)
        file = None if state_file is None else StateFile(Path(state_file))
        state = None if file is None else file.changed()
        if state is not None:
            table = table.sibling(state.names[state.live])
        is_new = create and state is None and base not in table.names()
        catalog = ItemCatalog.over(
            table, embed_model=embed_model, template=template, create=create and state is None
        )
        live = cls.__new__(cls)
        first = LiveState({1: base}, (1,), 2, frozenset() if is_new else frozenset({1}))
        live._begin(catalog, base, file, state or first)
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
        url: str | None = None,
        vector_store: BasePydanticVectorStore | None = None,
        name: str = "items",
        embed_model: BaseEmbedding | str | None = None,
        template: TextTemplate | None = None,
        state_file: str | Path | None = None,
        show_progress: bool = False,
    ) -> LiveCatalog:
        """Return a live catalog of exactly these items; a store that has one gets a new version if need be.

        Parameters and errors are those of `open` and `swap`.
        """
        checked = unique_items(items)
        live = cls.open(
            persist_dir,
            url=url,
            vector_store=vector_store,
            name=name,
            embed_model=embed_model,
            template=template,
            state_file=state_file,
            create=True,
        )
        with live.lent() as table:
            held = table.marks()
        if not held:
            live.current.sync(checked, show_progress=show_progress)
        elif held != {item.id: item.content_hash for item in checked}:
            live.swap(checked, show_progress=show_progress)
        return live

    # -- reading -----------------------------------------------------------------------------------------

    @property
    def base_name(self) -> str:
        """Name to open it by again; the versions' tables are called after it."""
        return self._base

    @property
    def state_file(self) -> Path | None:
        """Where it is kept which version is live; None if in this process only."""
        return None if self._file is None else self._file.path

    @property
    def current(self) -> ItemCatalog:
        """The version that the running turn has pinned, or else the live one."""
        return self._now().catalog

    @property
    def table(self) -> Table:
        """The table of `current`."""
        return self.current.table

    @property
    def encoder(self) -> EncoderIdentity:
        """What the vectors of every version are made with."""
        return self._pattern.encoder

    @property
    def embed_model(self) -> BaseEmbedding:
        """The encoder, loaded on first use."""
        return self._pattern.embed_model

    @property
    def template(self) -> TextTemplate:
        """Template of the embedded text."""
        return self._pattern.template

    @property
    def is_read_only(self) -> bool:
        """Whether `current` was made elsewhere."""
        return self.current.is_read_only

    @contextmanager
    def pinned(self) -> Iterator[ItemCatalog]:
        """Keep to one version for a whole turn, whatever is swapped meanwhile.

        All that reads this catalog inside, also in tasks and in ``asyncio.to_thread``, sees the version that
        was live on entry, and `prune` leaves it alone until the end. Inside another such block it keeps to
        the outer one's.
        """
        pins = PINNED.get()
        if self in pins:
            yield self.current
            return
        with self._held() as version:
            token = PINNED.set(MappingProxyType({**pins, self: version}))
            try:
                yield version.catalog
            finally:
                PINNED.reset(token)

    @contextmanager
    def lent(self) -> Iterator[Table]:
        """Lend the table of `current` for one call."""
        with self._held() as version:
            yield version.catalog.table

    def derived(self, owner: object, build: Callable[[ItemCatalog], T]) -> T:
        """Return what `build` makes of `current`; made once for each owner and version, and kept with it."""
        with self._held() as version, version.deriving:
            if owner not in version.derived:
                version.derived[owner] = build(version.catalog)
            made: T = version.derived[owner]
            return made

    @contextmanager
    def _held(self) -> Iterator[OpenVersion]:
        version = self._now(hold=True)
        try:
            yield version
        finally:
            with self._looking:
                version.readers -= 1
                is_last = version.is_retired and not version.readers
            if is_last:
                self._discard(version, at_once=False)

    def _now(self, *, hold: bool = False) -> OpenVersion:
        version = PINNED.get().get(self)
        with self._looking:
            # A task that outlives its turn still has the turn's pin; what it named may be gone by then.
            if version is None or version.is_gone:
                self._refresh()
                version = self._open[self._state.live]
            version.readers += hold
            return version

    # -- changing ----------------------------------------------------------------------------------------

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
                check_whole(given, self.encoder)
                if (number := self._number_of(given)) is not None:
                    return self._return_to(number)
                if self._file is None or given.table.home == self._pattern.table.home:
                    return self._switch(given, is_borrowed=True)
                items = list(given.items())
            candidate = self._pattern.beside(version_name(self._base, self._state.following))
            try:
                source = self._open[self._state.live].catalog if given is None else given
                candidate.sync(items, show_progress=show_progress, source=source)
                check_whole(candidate, self.encoder)
                return self._switch(candidate, is_borrowed=False)
            except BaseException:
                if candidate.name not in self._state.names.values():  # what is live already stays
                    self._drop(candidate)
                raise

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
            return self._return_to(to)

    def _return_to(self, to: int | None) -> CatalogVersion:
        state = self._state
        if to is None:
            if len(state.history) < 2:
                raise InputError("there is no earlier version", hint="versions() lists what is kept")
            to, history = state.history[-2], state.history[:-1]
        elif to in state.names:
            history = (*(number for number in state.history if number != to), to)
        else:
            raise InputError(f"there is no version {to}", hint="versions() lists what is kept")
        check_whole(self._opened(to, state).catalog, self.encoder)
        self._adopt(replace(state, history=history), write=True)
        return self._told(to)

    def versions(self) -> list[CatalogVersion]:
        """List the versions that are kept, by number."""
        with self._looking:
            self._refresh()
            return [self._told(number) for number in sorted(self._state.names)]

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
            recent = [*reversed(state.history)]
            never = sorted(set(state.names) - set(recent), reverse=True)
            gone = [*recent, *never][keep + 1 :]
            if not gone:
                return []
            doomed = [self._opened(number, state) for number in gone if number not in state.borrowed]
            self._adopt(state.without(frozenset(gone)), write=True)
            for version in doomed:
                with self._looking:
                    version.is_retired = True
                    is_free = not version.readers
                if is_free:
                    self._discard(version)
            return sorted(gone)

    @contextmanager
    def _change(self) -> Iterator[None]:
        """Let one caller of one process change versions at a time; readers do not wait."""
        with self._changing, nullcontext() if self._file is None else self._file.locked():
            with self._looking:
                self._refresh()
            yield

    def _switch(self, catalog: ItemCatalog, *, is_borrowed: bool) -> CatalogVersion:
        number = self._state.following
        state = self._state.with_version(catalog.name, is_borrowed=is_borrowed)
        self._adopt(state, write=True, opened=OpenVersion(number, catalog))
        return self._told(number)

    def _adopt(self, state: LiveState, *, write: bool, opened: OpenVersion | None = None) -> None:
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

    def _opened(self, number: int, state: LiveState) -> OpenVersion:
        with self._looking:
            if number not in self._open:
                catalog = self._pattern.beside(state.names[number], create=False)
                self._open[number] = OpenVersion(number, catalog)
            return self._open[number]

    def _number_of(self, catalog: ItemCatalog) -> int | None:
        one = (catalog.name, catalog.table.home)
        for number, name in self._state.names.items():
            # What is not open here is in the same store; a catalog of another one is always open.
            version = self._open.get(number)
            if one == (name, (version.catalog if version else self._pattern).table.home):
                return number
        return None

    def _told(self, number: int) -> CatalogVersion:
        catalog = self._opened(number, self._state).catalog
        return CatalogVersion(number, catalog.name, len(catalog), number == self._state.live)

    def _discard(self, version: OpenVersion, *, at_once: bool = True) -> None:
        with self._looking:
            if version.is_gone:
                return
            version.is_gone = True
        if at_once:
            self._drop(version.catalog)
        else:  # a turn has ended, on an event loop perhaps: it must not wait for who writes to the store
            threading.Thread(target=self._drop, args=(version.catalog,), name="reges-prune").start()

    @staticmethod
    def _drop(catalog: ItemCatalog) -> None:
        try:
            catalog.drop()
        except ReGeSError as error:  # it does no harm where it is, and must not hide what went before
            logger.warning("%s could not be deleted: %s", catalog, error)
