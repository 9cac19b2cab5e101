"""`reges ui`: the recommender as a web chat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from reges_index.cli.engine_options import EngineOptions, with_engine_options
from reges_index.cli.output import errors, say
from reges_index.cli.parts import ShownTopK, open_catalog, store_place
from reges_index.errors import ReGeSError

if TYPE_CHECKING:
    from reges_index.catalog import ItemCatalog, LiveCatalog
    from reges_index.engines.query_engine import ReGeSQueryEngine

_LOOPBACK = ("127.0.0.1", "::1", "localhost")

Host = Annotated[str, typer.Option("--host", help="Address to listen on; other machines cannot reach this.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any that is free.")]


@with_engine_options
def ui(options: EngineOptions, host: Host = "127.0.0.1", port: Port = 7860, top_k: ShownTopK = 8) -> None:
    """Chat in the browser. Has filters, and shows the query, the candidates and their probabilities.

    The page starts with the catalog NAME; the store's others can be chosen there. Needs the extra 'ui'.
    No telemetry, no share link: the page talks to this server only.
    """
    from reges_index.ui import build_ui
    from reges_index.ui.server import bind, serve

    listening = bind(host, port)  # first, since it fails fast
    if host not in _LOOPBACK:
        say(f"note: whoever can reach {host} can use this; there is no password", "yellow", to=errors)
    with errors.status("loading models"):
        engines = _Engines(options)
        exclude = engines.engine.exclude_mentioned
        page = build_ui(engines, engines.catalogs(), exclude_mentioned=exclude, top_k=top_k)
    shown = f"[{host}]" if ":" in host else host
    say(f"http://{shown}:{listening.getsockname()[1]}/  (Ctrl-C ends it)")
    serve(page, listening)


class _Engines:
    """Makes the engine of a catalog; all of them share the model that the first one loaded."""

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self.engine, self._catalog = options.engine()

    def __call__(self, catalog: ItemCatalog | LiveCatalog) -> ReGeSQueryEngine:
        if catalog is self._catalog:
            return self.engine
        from reges_index.engines.query_engine import ReGeSQueryEngine
        from reges_index.models.named import model_of

        expert = self.engine.rerank
        llm = model_of(expert.backend) if expert is not None else None
        return ReGeSQueryEngine.from_defaults(catalog, llm=llm, settings=self._options.settings())

    def catalogs(self) -> list[ItemCatalog | LiveCatalog]:
        """Return the catalog asked for, then the store's others; those that cannot be used are named."""
        from reges_index.catalog import ItemCatalog

        store, first = self._options.place()
        encoder = self._options.settings().encoder
        found = [self._catalog]
        for name in sorted({*ItemCatalog.names(**store_place(store))} - {first}):
            try:
                found.append(open_catalog(store, name, encoder))
            except ReGeSError as error:
                say(f"note: catalog {name!r} is left out: {error.message}", "yellow", to=errors)
        return found
