"""The options that decide how recommendations are made: those of `PipelineSettings`, made from its fields."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reges_index.catalog.place import is_url
from reges_index.cli.parts import open_catalog, option_of, store_place, with_options
from reges_index.errors import ConfigError
from reges_index.settings import GIVEN, PipelineSettings

if TYPE_CHECKING:
    from reges_index.catalog import ItemCatalog, LiveCatalog
    from reges_index.engines.query_engine import ReGeSQueryEngine
    from reges_index.pipeline import SavedPipeline

_STORE_KINDS = ("chroma", "qdrant", "lancedb")
# Options that are typed often; all others are said with --set.
_OFTEN = (
    *("encoder", "retriever", "similarity_top_k", "exclude_mentioned"),
    *("write_query", "query_llm", "query_adapter"),
    *("llm", "item_adapter", "mode", "prior_weight", "rerank_top_k", "on_error"),
    *("style", "domain"),
)
_FLAGS: dict[str, tuple[str, ...]] = {
    "llm": ("--model", "--llm"),
    "query_llm": ("--query-model", "--query-llm"),
    "exclude_mentioned": ("--exclude-mentioned/--allow-mentioned",),
}
_PANELS = {"query": "The query expert", "rerank": "The item expert", "answer": "The answer"}

MaybeStore = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="Folder of the catalog store, qdrant:FOLDER, lancedb:FOLDER, or http://host:port of a Chroma "
        "server; --pipeline may name it.",
    ),
]
MaybeName = Annotated[
    str | None, typer.Option("--name", help="Name of the catalog; needed where a store has several.")
]
PresetName = Annotated[
    str | None, typer.Option("--preset", help="Begin with a whole configuration; see `reges presets`.")
]
PipelineFile = Annotated[
    Path | None,
    typer.Option("--pipeline", help="Begin with a saved pipeline, and its store if it names one."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="KEY=VALUE of any setting, such as decoding.max_new_tokens=32; again for more."
    ),
]
ExcludeIds = Annotated[
    list[str] | None,
    typer.Option("--exclude-id", help="An item that must not be recommended; give it again for more."),
]


def settings_option(name: str) -> Any:
    """Return the command-line option of a setting: its flag, its values and its description."""
    kind: Any = PipelineSettings
    *section, leaf = PipelineSettings.options()[name]
    for step in section:
        kind = kind.model_fields[step].annotation
    flags = _FLAGS.get(name, (f"--{name.replace('_', '-')}",))
    return option_of(kind.model_fields[leaf], *flags, panel=_PANELS.get(section[0]) if section else None)


@dataclass(frozen=True, kw_only=True)
class _Begin:
    """Where the settings begin, and which catalog is meant."""

    store: MaybeStore = None
    name: MaybeName = None
    preset: PresetName = None
    pipeline: PipelineFile = None
    set: Settings = None


_Options: Any = make_dataclass(
    "_Options",
    [(name, settings_option(name), field(default=None)) for name in _OFTEN],
    bases=(_Begin,),
    frozen=True,
    kw_only=True,
)


class EngineOptions(_Options):
    """What recommendations depend on. None leaves it to the preset or pipeline, or else to the default."""

    def settings(self) -> PipelineSettings:
        """Return the settings in force: the preset's or pipeline's, then the options', then ``--set``.

        Raises
        ------
        ConfigError
            If there is no such preset, or a value cannot be.
        """
        saved = self._saved()
        base = PipelineSettings.preset(self.preset or "embedded") if saved is None else saved.settings
        changes = {name: _one_name(getattr(self, name)) for name in _OFTEN}
        changes = {name: value for name, value in changes.items() if value is not None}
        if "llm" in changes:
            changes["llm_options"] = {}  # they were another model's
        if "domain" in changes:  # for both experts
            changes["query_domain"] = None
        return base.with_options(**changes).override_texts(self.set or ())

    def place(self, *, new: bool = False) -> tuple[str, str]:
        """Return store and name of the catalog: without ``--name`` the only one that the store holds.

        Parameters
        ----------
        new
            Whether the catalog may be made, and is then called "items" where no name is given.

        Raises
        ------
        ConfigError
            If neither ``--store`` nor the pipeline's file names a store, or its address holds a password.
        """
        saved = self._saved()
        store = self.store if self.store is not None or saved is None else saved.catalog.store
        if store is None:
            raise ConfigError(
                "--store is missing", hint="name a folder, or http://host:port of a Chroma server"
            )
        store_place(store)  # refuses what cannot be one, before anything is written
        if self.name:
            return store, self.name
        if saved is not None and self.store is None:
            return store, saved.catalog.name
        return store, "items" if new else _only_catalog(store)

    def catalog(self) -> ItemCatalog | LiveCatalog:
        """Open the catalog; one of a pipeline's file that says so, at its live version."""
        settings, (store, name), saved = self.settings(), self.place(), self._saved()
        if settings.encoder == GIVEN:
            raise ConfigError(
                f"{self.pipeline}: the pipeline's encoder is an object that has no name",
                hint="give --encoder, or load the pipeline from Python: load_pipeline(path, embed_model=...)",
            )
        live = saved is not None and saved.catalog.live and self.store is None and self.name is None
        return open_catalog(store, name, settings.encoder, live=live)

    def engine(self) -> tuple[ReGeSQueryEngine, ItemCatalog | LiveCatalog]:
        """Open catalog and models, and put the engine together."""
        catalog = self.catalog()  # first, since it fails fast; models take seconds

        from reges_index.engines.query_engine import ReGeSQueryEngine

        return ReGeSQueryEngine.from_defaults(catalog, settings=self.settings()), catalog

    def record(self) -> dict[str, Any]:
        """Return all of it as plain values, the store as one name whichever folder `reges` was called in."""
        store, name = self.place()
        if not is_url(store):
            kind, colon, folder = store.partition(":")
            kind, folder = (f"{kind}:", folder) if colon and kind in _STORE_KINDS else ("", store)
            store = kind + str(Path(folder).expanduser().resolve())
        record: dict[str, Any] = {"store": store, "catalog_name": name}
        settings = self.settings().model_dump(mode="json", exclude={"name"})
        for option, (*section, leaf) in PipelineSettings.options().items():
            if option != "name":
                record[option] = (settings[section[0]] if section else settings)[leaf]
        return record

    def _saved(self) -> SavedPipeline | None:
        if self.pipeline is None:
            return None
        if self.preset is not None:
            raise ConfigError("both --preset and --pipeline are given", hint="begin with one of them")
        from reges_index.pipeline import read_pipeline

        return read_pipeline(self.pipeline)


def _only_catalog(store: str) -> str:
    """Return the name of the only catalog of a store; "items" of several, or where there is none yet."""
    from reges_index.catalog import ItemCatalog
    from reges_index.errors import StoreNotFoundError

    try:
        names = ItemCatalog.names(**store_place(store))
    except StoreNotFoundError:  # whoever opens it says so, with the way out
        return "items"
    if len(names) > 1 and "items" not in names:
        raise ConfigError(
            f"{store} holds several catalogs: {', '.join(names)}", hint="choose one with --name"
        )
    return names[0] if len(names) == 1 else "items"


def _one_name(place: Any) -> Any:
    """Return a folder by its absolute path, so that it is the same one wherever `reges` is called."""
    if not isinstance(place, str) or not Path(place).expanduser().is_dir():
        return place
    return str(Path(place).expanduser().resolve())


with_engine_options = with_options(EngineOptions)
"""Gives a command one option for each field of `EngineOptions`, and the object as ``options``."""

assert {option.name for option in fields(EngineOptions)} >= set(_OFTEN)
