"""Engines into pipeline files and out of them."""

from __future__ import annotations

import logging
from pathlib import Path

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms.llm import LLM

from reges_index.catalog import ItemCatalog, LiveCatalog
from reges_index.catalog.live_state import usual_state_file
from reges_index.catalog.place import is_url, open_catalog_at
from reges_index.engines.query_engine import ReGeSQueryEngine
from reges_index.engines.retrieval import CatalogSource
from reges_index.errors import ConfigError
from reges_index.fusion.model import FusionModel
from reges_index.models.local_lm import LocalLM
from reges_index.pipeline.build import build_engine
from reges_index.pipeline.describe import describe_engine
from reges_index.pipeline.file import SavedPipeline, read_pipeline, write_pipeline
from reges_index.pipeline.settings import GIVEN

__all__ = ["load_pipeline", "open_catalog_at", "save_pipeline"]

logger = logging.getLogger(__name__)


def save_pipeline(engine: ReGeSQueryEngine, path: str | Path, *, name: str = "custom") -> Path:
    """Write all that an engine is made of into a YAML file, whole or not at all; returns its path.

    The file names models, adapters and the catalog's store, and holds prompts and options as they are now.
    It holds neither their content nor any key.

    Parameters
    ----------
    path
        The file. Folders inside its own folder are named relative to it.
    name
        What to call the pipeline.

    Raises
    ------
    ConfigError
        If a part cannot be written down; see `describe_engine`.
    StorageError
        If the file cannot be written.
    """
    settings = describe_engine(engine, name=name)
    given = [
        field for field in ("encoder", "llm", "query_llm", "fusion") if getattr(settings, field) == GIVEN
    ]
    if given:
        logger.warning(
            "%s: %s must be passed to load_pipeline again; no name says it", path, ", ".join(given)
        )
    source = engine.retrieve_with
    if not isinstance(source, CatalogSource):
        return write_pipeline(SavedPipeline(settings), path)
    live = isinstance(source.catalog, LiveCatalog)
    catalog = source.catalog.base_name if isinstance(source.catalog, LiveCatalog) else source.catalog.name
    place = _place_of(source.catalog)
    if place is None:
        logger.warning("%s: the catalog must be passed to load_pipeline again; no place says it", path)
    return write_pipeline(SavedPipeline(settings, place, catalog, live), path)


def load_pipeline(
    path: str | Path,
    *,
    catalog: ItemCatalog | LiveCatalog | None = None,
    retriever: BaseRetriever | None = None,
    embed_model: BaseEmbedding | None = None,
    llm: LLM | LocalLM | None = None,
    query_llm: LLM | LocalLM | None = None,
    fusion: FusionModel | None = None,
    callback_manager: CallbackManager | None = None,
) -> ReGeSQueryEngine:
    """Build the engine that a pipeline file describes.

    Parameters
    ----------
    catalog, retriever
        In place of the catalog that the file names; one of them where it names none.
    embed_model
        To open the file's catalog with, where the file's encoder is "given".
    llm, query_llm, fusion, callback_manager
        As for `build_engine`.

    Raises
    ------
    InputError, ConfigError
        As `read_pipeline` and `build_engine`; also if no catalog is named or passed.
    StoreNotFoundError
        If the catalog that the file names is not there.
    """
    saved = read_pipeline(path)
    if catalog is None and retriever is None:
        if saved.store is None:
            raise ConfigError(
                f"{path} names no store: its catalog was in memory or elsewhere",
                hint="pass the catalog: load_pipeline(path, catalog=...)",
            )
        if saved.settings.encoder == GIVEN and embed_model is None:
            raise ConfigError(
                f"{path}: the pipeline's encoder is an object that has no name",
                hint="pass it: load_pipeline(path, embed_model=...)",
            )
        encoder = embed_model if embed_model is not None else saved.settings.encoder
        catalog = open_catalog_at(saved.store, saved.catalog, encoder, live=saved.live)
    return build_engine(
        saved.settings,
        catalog,
        retriever=retriever,
        llm=llm,
        query_llm=query_llm,
        fusion=fusion,
        callback_manager=callback_manager,
    )


def _place_of(catalog: ItemCatalog | LiveCatalog) -> str | None:
    """Return where a catalog can be opened again, a live one at its live version; None for one in memory."""
    place = catalog.table.place
    folder = place.removeprefix("qdrant:").removeprefix("lancedb:")
    if isinstance(catalog, LiveCatalog) and catalog.state_file != usual_state_file(
        Path(folder), catalog.base_name
    ):
        return None
    return place if is_url(place) or Path(folder).is_dir() else None
