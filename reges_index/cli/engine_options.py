"""The options that decide how recommendations are made, once for all commands that make them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reges_index.cli.parts import (
    Encoder,
    Fusion,
    ItemAdapter,
    Mode,
    QueryAdapter,
    RerankTopK,
    is_url,
    parse_domain,
    store_place,
)
from reges_index.cli.shared_options import with_options
from reges_index.errors import ConfigError

if TYPE_CHECKING:
    from reges_index.pipeline import PipelineSettings, SavedPipeline

__all__ = ["EngineOptions", "PipelineFile", "PresetName", "Settings", "with_engine_options"]

_STORE_KINDS = ("chroma", "qdrant", "lancedb")

MaybeStore = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="Folder of the catalog store, qdrant:FOLDER, lancedb:FOLDER, or http://host:port of a Chroma "
        "server; --pipeline may name it.",
    ),
]
MaybeName = Annotated[
    str | None, typer.Option("--name", help="Name of the catalog within the store; 'items' by default.")
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
TopK = Annotated[
    int | None, typer.Option("--similarity-top-k", min=1, help="How many items to retrieve; 50 by default.")
]
ExcludeMentioned = Annotated[
    bool | None,
    typer.Option(
        "--exclude-mentioned/--allow-mentioned",
        help="Never recommend what the dialogue has named; allowed by default, except in chats.",
        show_default=False,
    ),
]
HideRuledOut = Annotated[
    bool | None,
    typer.Option(
        "--hide-ruled-out/--show-ruled-out",
        help="Take what the user turned down, and genres ruled out, off the ranking; with the fusion only. "
        "Shown by default, further down.",
        show_default=False,
    ),
]
ModeChoice = Annotated[
    Mode | None,
    typer.Option(
        "--mode",
        help="Score all candidates (the default), write a title limited to them, write freely and match, or "
        "reason first and then score.",
    ),
]
Domain = Annotated[
    str | None,
    typer.Option("--domain", help="What an item is called: NOUN or NOUN,PLURAL, such as book,books."),
]


Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="The LLM: embedded (SmolLM2, the default), a folder, a hub name, openai:MODEL or "
        "openai-like:MODEL@URL.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What recommendations depend on. None leaves it to the preset or pipeline, or else to the default."""

    store: MaybeStore = None
    name: MaybeName = None
    preset: PresetName = None
    pipeline: PipelineFile = None
    set: Settings = None
    similarity_top_k: TopK = None
    rerank_top_k: RerankTopK = None
    exclude_mentioned: ExcludeMentioned = None
    hide_ruled_out: HideRuledOut = None
    mode: ModeChoice = None
    domain: Domain = None
    fusion: Fusion = None
    encoder: Encoder = None
    model: Model = None
    query_adapter: QueryAdapter = None
    item_adapter: ItemAdapter = None

    def settings(self) -> PipelineSettings:
        """Return the settings in force: the preset's or pipeline's, then the options', then ``--set``.

        Raises
        ------
        ConfigError
            If there is no such preset, or a value cannot be.
        """
        from reges_index.pipeline import PipelineSettings

        saved = self._saved()
        base = PipelineSettings.preset(self.preset or "embedded") if saved is None else saved.settings
        if self.domain is not None:  # for both experts
            base = base.override(query_item_noun=None, query_item_plural=None)
        return base.override(**self._changes()).override_texts(self.set or ())

    def place(self) -> tuple[str, str]:
        """Return store and name of the catalog.

        Raises
        ------
        ConfigError
            If neither ``--store`` nor the pipeline's file names a store, or its address holds a password.
        """
        saved = self._saved()
        store = self.store if self.store is not None or saved is None else saved.store
        if store is None:
            raise ConfigError(
                "--store is missing", hint="name a folder, or http://host:port of a Chroma server"
            )
        store_place(store)  # refuses what cannot be one, before anything is written
        return store, self.name or (saved.catalog if saved is not None and self.store is None else "items")

    def is_live(self) -> bool:
        """Whether the catalog is one of a pipeline's file that says it is live."""
        saved = self._saved()
        return saved is not None and saved.live and self.store is None and self.name is None

    def record(self) -> dict[str, Any]:
        """Return all of it as plain values, the store as one name whichever folder `reges` was called in."""
        store, name = self.place()
        if not is_url(store):
            kind, colon, folder = store.partition(":")
            kind, folder = (f"{kind}:", folder) if colon and kind in _STORE_KINDS else ("", store)
            store = kind + str(Path(folder).expanduser().resolve())
        return {
            "store": store,
            "catalog_name": name,
            **self.settings().model_dump(mode="json", exclude={"name"}),
        }

    def _saved(self) -> SavedPipeline | None:
        if self.pipeline is None:
            return None
        if self.preset is not None:
            raise ConfigError("both --preset and --pipeline are given", hint="begin with one of them")
        from reges_index.pipeline import read_pipeline

        return read_pipeline(self.pipeline)

    def _changes(self) -> dict[str, Any]:
        changes: dict[str, Any] = {
            "llm": _one_name(self.model),
            "encoder": _one_name(self.encoder),
            "query_adapter": _one_name(self.query_adapter),
            "item_adapter": _one_name(self.item_adapter),
            "similarity_top_k": self.similarity_top_k,
            "rerank_top_k": self.rerank_top_k,
            "exclude_mentioned": self.exclude_mentioned,
            "hide_ruled_out": self.hide_ruled_out,
            "mode": None if self.mode is None else self.mode.value,
            "fusion": None if self.fusion is None else ("shipped" if self.fusion else "none"),
        }
        if self.model is not None:
            changes["llm_options"] = {}  # they were another model's
        if self.domain is not None:
            domain = parse_domain(self.domain)
            changes |= {"item_noun": domain.noun, "item_plural": domain.plural}
        return {key: value for key, value in changes.items() if value is not None}


def _one_name(place: str | None) -> str | None:
    """Return a folder by its absolute path, so that it is the same one wherever `reges` is called."""
    if place is None or not Path(place).expanduser().is_dir():
        return place
    return str(Path(place).expanduser().resolve())


with_engine_options = with_options(EngineOptions)
"""Gives a command one option for each field of `EngineOptions`, and the object as ``options``."""
