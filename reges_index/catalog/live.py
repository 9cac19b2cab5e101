"""`LiveCatalog`: a catalog that can be swapped for another while chats run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from llama_index.core.base.embeddings.base import BaseEmbedding

from reges_index.catalog.catalog import ItemCatalog, table_in
from reges_index.catalog.encoder import EncoderIdentity
from reges_index.catalog.fields import FieldNames
from reges_index.catalog.item import Item, TextTemplate
from reges_index.catalog.live_state import StateFile, first_state, live_in, usual_state_file
from reges_index.catalog.live_versions import PINNED, CatalogVersion, LiveVersions, OpenVersion
from reges_index.catalog.place import CatalogPlace, place_of
from reges_index.catalog.reader import CatalogReader
from reges_index.catalog.stores.base import Table
from reges_index.catalog.sync import SyncReport, unique_items
from reges_index.dialogue import TitleIndex
from reges_index.errors import InputError

if TYPE_CHECKING:
    from typing import Unpack

__all__ = ["LiveCatalog", "open_catalog_at"]

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
        self._versions = LiveVersions(catalog, catalog.name, file, first_state(catalog.name))

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
        versions = LiveVersions.at(table, file, create=create, **place)
        live = cls.__new__(cls)
        live._versions = versions
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
    def base_name(self) -> str:
        """Name to open it by again; the versions' tables are called after it."""
        return self._versions.base

    @property
    def state_file(self) -> Path | None:
        """Where it is kept which version is live; None if in this process only."""
        file = self._versions.file
        return None if file is None else file.path

    @property
    def current(self) -> ItemCatalog:
        """The version that the running turn has pinned, or else the live one."""
        return self._versions.now(self._pin).catalog

    @property
    def table(self) -> Table:
        """The table of `current`."""
        return self.current.table

    @property
    def encoder(self) -> EncoderIdentity:
        """What the vectors of every version are made with."""
        return self._versions.first.encoder

    @property
    def embed_model(self) -> BaseEmbedding:
        """The encoder, loaded on first use."""
        return self._versions.first.embed_model

    @property
    def template(self) -> TextTemplate:
        """Template of the embedded text."""
        return self._versions.first.template

    @property
    def is_read_only(self) -> bool:
        """Whether `current` was made elsewhere."""
        return self.current.is_read_only

    @property
    def field_names(self) -> FieldNames:
        """Which metadata keys of a version made elsewhere hold which fields."""
        return self._versions.first.field_names

    @property
    def notes(self) -> Counter[str]:
        """What was left out or guessed in `current`, by what it was, with how often."""
        return self.current.notes

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
        with self._versions.held(self._pin) as version:
            token = PINNED.set(MappingProxyType({**pins, self: version}))
            try:
                yield version.catalog
            finally:
                PINNED.reset(token)

    @contextmanager
    def lent(self) -> Iterator[Table]:
        """Lend the table of `current` for one call."""
        with self._versions.held(self._pin) as version:
            yield version.catalog.table

    def titles(self) -> TitleIndex:
        """Return the index of the titles of `current`."""
        return self.current.titles()

    def derived(self, owner: object, build: Callable[[ItemCatalog], T]) -> T:
        """Return what `build` makes of `current`; made once for each owner and version, and kept with it."""
        with self._versions.held(self._pin) as version, version.deriving:
            if owner not in version.derived:
                version.derived[owner] = build(version.catalog)
            made: T = version.derived[owner]
            return made

    @property
    def _pin(self) -> OpenVersion | None:
        """The version that the running turn has pinned."""
        return PINNED.get().get(self)

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
        versions = self._versions
        with versions.change():
            if given is not None:
                versions.check(given)
                if (number := versions.number_of(given)) is not None:
                    return versions.return_to(number)
                if versions.file is None or given.table.home == versions.first.table.home:
                    return versions.add(given, is_borrowed=True)
                items = list(given.items())
            return versions.build(items, source=given, show_progress=show_progress)

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
        with self._versions.change():
            return self._versions.return_to(to)

    def add(self, items: Iterable[Item], *, show_progress: bool = False) -> SyncReport:
        """Add items to the live version, or replace those that have changed, and leave all others.

        What is changing versions meanwhile, here or in another process, is waited for: the items go into what
        it makes live, and none is lost. Other versions stay as they are, so a rollback takes items back; and
        so do turns that have pinned one. Turns over the live version see the items as they are written.

        Parameters
        ----------
        items
            With unique ids, at least one.
        show_progress
            Show a progress bar on stderr.

        Raises
        ------
        InputError
            If there are no items, or ids repeat.
        CatalogError
            If the live version was made elsewhere, or another program writes to it.
        StorageError
            If the disk is full or the folder cannot be written. What was written stays.
        """
        checked = unique_items(items)
        with self._changing() as catalog:
            return catalog.add(checked, show_progress=show_progress)

    def remove(self, ids: Iterable[str]) -> int:
        """Remove items from the live version, as `add` adds them.

        Returns
        -------
        int
            How many there were.

        Raises
        ------
        InputError
            If nothing would be left.
        CatalogError
            If an id is not in the live version (nothing is removed then), or it was made elsewhere.
        """
        with self._changing() as catalog:
            return catalog.remove(ids)

    def sync(self, items: Iterable[Item], *, show_progress: bool = False) -> SyncReport:
        """Make the live version hold exactly these items; else as `add`.

        Unlike after a `swap`, readers see some items in their new form before others, and there is no version
        to go back to.
        """
        checked = unique_items(items)
        with self._changing() as catalog:
            return catalog.sync(checked, show_progress=show_progress)

    @contextmanager
    def _changing(self) -> Iterator[ItemCatalog]:
        """Lend the live version, whatever the running turn has pinned; it stays live until the end."""
        with self._versions.change():
            yield self._versions.now(None).catalog

    def versions(self) -> list[CatalogVersion]:
        """List the versions that are kept and that the store still has, by number."""
        return self._versions.listed()

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
        with self._versions.change():
            if gone := self._versions.past(keep):
                self._versions.forget(gone)
            return gone


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
