"""`Shelf`: the catalogs of a web chat, each with its engine, made when it is first chosen."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, TypeAlias

from reges_index.catalog import ItemCatalog, LiveCatalog
from reges_index.catalog.filters import all_of
from reges_index.dialogue.wording import MOVIES
from reges_index.engines.chat_engine import ReGeSChatEngine, small_talk_detector
from reges_index.engines.query_engine import ReGeSQueryEngine
from reges_index.errors import ConfigError, InputError
from reges_index.ui.choices import Choices, Facets

Catalog: TypeAlias = ItemCatalog | LiveCatalog

# Any, so that a function which takes one of the two kinds of catalog only is welcome too.
EngineFactory: TypeAlias = Callable[[Any], ReGeSQueryEngine]
"""Makes the engine of a catalog."""


class Shelf:
    """Catalogs by name, with their engines, which all sessions share. Safe to use from several threads.

    Parameters and errors are those of `build_ui`.
    """

    def __init__(
        self,
        engine: ReGeSQueryEngine | EngineFactory,
        catalogs: Catalog | Sequence[Catalog] | None = None,
        *,
        small_talk: bool = True,
    ) -> None:
        if catalogs is None and isinstance(engine, ReGeSQueryEngine):
            catalogs = engine.catalog
        given = [] if catalogs is None else list(catalogs) if isinstance(catalogs, Sequence) else [catalogs]
        self._catalogs = {_name(catalog): catalog for catalog in given}
        if not given or len(self._catalogs) < len(given):
            raise ConfigError(
                f"a web chat needs catalogs with names that differ, got {[*map(_name, given)]}",
                hint="pass the catalogs; an engine knows its own if it was built from one",
            )
        if isinstance(engine, ReGeSQueryEngine):
            if len(given) > 1:
                raise ConfigError(
                    f"one engine was given for {len(given)} catalogs",
                    hint="give a function that makes the engine of a catalog",
                )
            only = engine
            engine = lambda _: only  # noqa: E731
        self._make = engine
        self._small_talk = small_talk
        self._engines: dict[str, ReGeSQueryEngine] = {}
        self._facets: dict[str, tuple[object, Facets]] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """Names of the catalogs; the first is what a page starts with."""
        return list(self._catalogs)

    def catalog(self, name: str) -> Catalog:
        """Return a catalog by name."""
        if name not in self._catalogs:
            raise InputError(f"there is no catalog {name!r} here", hint=f"choose {', '.join(self.names)}")
        return self._catalogs[name]

    def facets(self, name: str) -> Facets:
        """Return what a catalog's items can be filtered by, those that its engine may recommend.

        Read anew when the catalog was swapped, or when items came, went, or pass the engine's own filters
        now.
        """
        catalog, base = self.catalog(name), self._base_if_it_loads(name)
        with catalog.pinned() if isinstance(catalog, LiveCatalog) else nullcontext(catalog) as version:
            ids = frozenset(version.ids(base.filters if base is not None else None))
            state = version.name, ids
            known = self._facets.get(name)
            if known is None or known[0] != state:
                allowed = (item for item in version.items() if item.id in ids)
                known = self._facets[name] = state, Facets.of(allowed)
        return known[1]

    def examples(self, name: str) -> tuple[str, ...]:
        """Return messages that an empty chat over a catalog offers."""
        base = self._base_if_it_loads(name)
        return self.facets(name).examples(base.domain if base is not None else MOVIES)

    def _base_if_it_loads(self, name: str) -> ReGeSQueryEngine | None:
        try:
            return self.base(name)
        except Exception:  # whatever loading a model raises: the first turn tells, and the page must open
            return None

    def base(self, name: str) -> ReGeSQueryEngine:
        """Return the engine of a catalog, with its own filters only; the first call makes it."""
        catalog = self.catalog(name)
        with self._lock:  # so that a model is loaded once, however many pages ask at the same time
            if name not in self._engines:
                self._engines[name] = self._make(catalog)
            return self._engines[name]

    def engine(self, choices: Choices) -> ReGeSQueryEngine:
        """Return an engine that obeys what a user has set, on top of its own filters."""
        base = self.base(choices.catalog)
        filters = all_of(base.filters, choices.filters)
        return base.with_filters(filters, exclude_mentioned=choices.exclude_mentioned)

    def chat(self, choices: Choices) -> ReGeSChatEngine:
        """Return a chat engine with a memory of its own."""
        engine = self.engine(choices)
        if not self._small_talk:
            return ReGeSChatEngine(engine)
        detector = small_talk_detector(self.base(choices.catalog))
        return ReGeSChatEngine(engine, is_small_talk=detector)


def _name(catalog: Catalog) -> str:
    """Return the name of a catalog, of a live one that which its versions share."""
    return catalog.base_name if isinstance(catalog, LiveCatalog) else catalog.name
