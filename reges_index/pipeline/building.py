"""From settings and pipeline files to engines, and from engines into files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate

from reges_index.catalog import ItemCatalog, LiveCatalog
from reges_index.catalog.live import open_catalog_at
from reges_index.catalog.live_state import usual_state_file
from reges_index.catalog.place import is_url
from reges_index.engines.query_engine import ReGeSQueryEngine
from reges_index.engines.retrieval import CatalogSource
from reges_index.errors import ConfigError
from reges_index.models.named import model_of
from reges_index.pipeline.file import SavedPipeline, read_pipeline, write_pipeline
from reges_index.settings import GIVEN, PipelineSettings

if TYPE_CHECKING:
    from llama_index.core.llms.llm import LLM

    from reges_index.fusion.model import FusionModel
    from reges_index.models.local_lm import LocalLM

__all__ = ["build_engine", "load_pipeline", "save_pipeline"]

logger = logging.getLogger(__name__)


def build_engine(
    settings: PipelineSettings,
    catalog: ItemCatalog | LiveCatalog | None = None,
    *,
    retriever: BaseRetriever | FusionModel | None = None,
    llm: LLM | LocalLM | None = None,
    query_llm: LLM | LocalLM | None = None,
    callback_manager: CallbackManager | None = None,
) -> ReGeSQueryEngine:
    """Build the engine that settings describe.

    Parameters
    ----------
    settings
        From a preset, a file, or made by hand.
    catalog
        Must be made with the settings' encoder.
    retriever
        In place of the settings': a LlamaIndex retriever, also without a catalog, or a `FusionModel`.
    llm, query_llm
        Objects in place of what the settings name; needed where they say "given". A model that is passed
        here is the query expert's too, unless the settings or `query_llm` name another.
    callback_manager
        As everywhere in LlamaIndex.

    Returns
    -------
    ReGeSQueryEngine
        Its models are loaded; a second engine over the embedded model shares it.

    Raises
    ------
    ConfigError
        If an object is "given" and was not passed, a key is missing from the environment, or settings
        contradict each other.
    EncoderMismatchError
        If the catalog was made with another encoder than the settings name.
    ModelNotFoundError
        If a model is nowhere to be found; with ``HF_HUB_OFFLINE`` set, nobody is asked for it.
    AdapterError
        If an adapter is missing, damaged, or belongs to another base, role or prompt.
    """
    return ReGeSQueryEngine.from_defaults(
        catalog,
        retriever="auto" if retriever is None else retriever,
        llm=llm,
        query_llm=query_llm,
        settings=settings,
        callback_manager=callback_manager,
    )


def save_pipeline(engine: ReGeSQueryEngine, path: str | Path, *, name: str = "custom") -> Path:
    """Write an engine's settings into a YAML file, whole or not at all; returns its path.

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
        If a part cannot be written down: a prompt with an output parser or with variables of its own, or an
        LLM of its own that writes the sentences.
    StorageError
        If the file cannot be written.
    """
    _check_parts(engine)
    settings = engine.settings.override(name=name)
    named = {"encoder": settings.encoder, "llm": settings.llm, "query_llm": settings.query_llm}
    given = [
        field
        for field, value in {**named, "retriever": settings.retrieval.retriever}.items()
        if value == GIVEN
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
    retriever: BaseRetriever | FusionModel | None = None,
    embed_model: BaseEmbedding | None = None,
    llm: LLM | LocalLM | None = None,
    query_llm: LLM | LocalLM | None = None,
    callback_manager: CallbackManager | None = None,
) -> ReGeSQueryEngine:
    """Build the engine that a pipeline file describes.

    Parameters
    ----------
    catalog, retriever
        In place of the catalog that the file names; needed where it names none.
    embed_model
        To open the file's catalog with, where the file's encoder is "given".
    llm, query_llm, callback_manager
        As for `build_engine`.

    Raises
    ------
    InputError, ConfigError
        As `read_pipeline` and `build_engine`; also if no catalog is named or passed.
    StoreNotFoundError
        If the catalog that the file names is not there.
    """
    saved = read_pipeline(path)
    if catalog is None and not isinstance(retriever, BaseRetriever):
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
        callback_manager=callback_manager,
    )


def _check_parts(engine: ReGeSQueryEngine) -> None:
    """Refuse what plain values cannot say."""
    words, expert = engine.response_synthesizer, engine.rerank
    if words.backend is not None:
        model: Any = model_of(words.backend)
        default = expert is None and words.backend.name == _embedded_name()
        if not default and (expert is None or model_of(expert.backend) is not model):
            raise ConfigError(
                "the sentence is written by another LLM than the item expert's, which a file cannot say",
                hint="give ReGeSSynthesizer the item expert's LLM",
            )
    for name, prompt in engine.get_prompts().items():
        _check_prompt(name.split(":")[-1], prompt)


def _embedded_name() -> str:
    from reges_index.models.embedded import EMBEDDED_BASE

    return EMBEDDED_BASE


def _check_prompt(name: str, prompt: BasePromptTemplate) -> None:
    assert isinstance(prompt, PromptTemplate)  # the components take no other
    own = (prompt.kwargs, prompt.function_mappings, prompt.template_var_mappings, prompt.output_parser)
    if any(own):
        raise ConfigError(
            f"{name} has variables, functions or an output parser of its own, which a file cannot hold",
            hint="write its text out whole",
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
