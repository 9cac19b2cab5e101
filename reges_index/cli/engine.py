"""The engine that recommend, chat and predict run on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reges_index.cli.engine_options import EngineOptions
from reges_index.cli.parts import open_catalog
from reges_index.errors import ConfigError

if TYPE_CHECKING:
    from reges_index.catalog import ItemCatalog, LiveCatalog
    from reges_index.engines import ReGeSQueryEngine
    from reges_index.models import LocalLM

__all__ = ["EngineOptions", "build_engine"]


def build_engine(
    options: EngineOptions, *, lm: LocalLM | None = None
) -> tuple[ReGeSQueryEngine, ItemCatalog | LiveCatalog]:
    """Open catalog and models, and put the engine together; with `lm` no model is loaded."""
    from reges_index.pipeline.settings import GIVEN

    settings, (store, name) = options.settings(), options.place()
    if settings.encoder == GIVEN:
        raise ConfigError(
            f"{options.pipeline}: the pipeline's encoder is an object that has no name",
            hint="give --encoder, or load the pipeline from Python: load_pipeline(path, embed_model=...)",
        )
    # First, since it fails fast; models take seconds.
    catalog = open_catalog(store, name, settings.encoder, live=options.is_live())

    from reges_index import pipeline

    return pipeline.build_engine(settings, catalog, llm=lm), catalog
