"""Pipelines as files: an engine saved into YAML, and loaded again.

A file holds plain values, no pickles and no secrets, and is written whole or not at all. What is read here
needs no model; engines are imported when one is loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict

from reges_index.errors import ConfigError
from reges_index.files import checked, hash_of, read_yaml, sha256_of, write_text
from reges_index.settings import GIVEN, PipelineSettings

if TYPE_CHECKING:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.callbacks import CallbackManager
    from llama_index.core.llms.llm import LLM

    from reges_index.catalog import ItemCatalog, LiveCatalog
    from reges_index.engines.query_engine import ReGeSQueryEngine
    from reges_index.fusion.model import FusionModel
    from reges_index.item_expert.rerank import ReGeSRerank
    from reges_index.models.local_lm import LocalLM
    from reges_index.query_expert.transform import ReGeSQueryTransform

logger = logging.getLogger(__name__)

FORMAT, VERSION = "reges-pipeline", 1
_HEAD = ("format", "version", "made_with")
_PLACES = ("llm", "query_llm", "query_adapter", "item_adapter", "retriever")
_STORES = ("chroma:", "qdrant:", "lancedb:")
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "reges_adapter.json")


# -- engines -------------------------------------------------------------------------------------------------


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
    from reges_index.catalog import LiveCatalog

    _check_parts(engine)
    settings = engine.settings.override(name=name)
    named = {field: getattr(settings, field) for field in ("encoder", "llm", "query_llm")}
    named["retriever"] = settings.retrieval.retriever
    if given := [field for field, value in named.items() if value == GIVEN]:
        logger.warning(
            "%s: %s must be passed to load_pipeline again; no name says it", path, ", ".join(given)
        )
    catalog = engine.catalog
    if catalog is None:
        return write_pipeline(SavedPipeline(settings=settings), path)
    place = _place_of(catalog)
    if place is None:
        logger.warning("%s: the catalog must be passed to load_pipeline again; no place says it", path)
    live = isinstance(catalog, LiveCatalog)
    called = catalog.base_name if isinstance(catalog, LiveCatalog) else catalog.name
    where = SavedCatalog(store=place, name=called, live=live)
    return write_pipeline(SavedPipeline(catalog=where, settings=settings), path)


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
    llm, query_llm
        In place of the models that the file names; needed where it says "given". An ``llm`` writes the
        queries too, unless the file or `query_llm` names another.
    callback_manager
        As everywhere in LlamaIndex.

    Raises
    ------
    InputError, ConfigError
        As `read_pipeline` and `ReGeSQueryEngine.from_defaults`; also if no catalog is named or passed.
    StoreNotFoundError
        If the catalog that the file names is not there.
    """
    from reges_index.catalog.live import open_catalog_at
    from reges_index.engines.query_engine import ReGeSQueryEngine
    from reges_index.fusion.model import FusionModel

    saved = read_pipeline(path)
    if catalog is None and (retriever is None or isinstance(retriever, FusionModel)):
        place = saved.catalog
        if place.store is None:
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
        catalog = open_catalog_at(place.store, place.name, encoder, live=place.live)
    return ReGeSQueryEngine.from_defaults(
        catalog,
        retriever=retriever if retriever is not None else "auto",
        llm=llm,
        query_llm=query_llm,
        settings=saved.settings,
        callback_manager=callback_manager,
    )


def _check_parts(engine: ReGeSQueryEngine) -> None:
    """Refuse what plain values cannot say."""
    from reges_index.models.embedded import EMBEDDED_BASE
    from reges_index.models.named import model_of

    words, expert = engine.response_synthesizer.backend, engine.rerank
    if words is not None:
        usual = expert is None and words.name == EMBEDDED_BASE
        if not usual and (expert is None or model_of(expert.backend) is not model_of(words)):
            raise ConfigError(
                "the sentence is written by another LLM than the item expert's, which a file cannot say",
                hint="give ReGeSSynthesizer the item expert's LLM",
            )
    for name, prompt in engine.get_prompts().items():
        mappings = (prompt.kwargs, prompt.function_mappings, prompt.template_var_mappings)
        if any(mappings) or prompt.output_parser:
            raise ConfigError(
                f"{name.split(':')[-1]} has variables, functions or an output parser of its own, which a "
                "file cannot hold",
                hint="write its text out whole",
            )


def _place_of(catalog: ItemCatalog | LiveCatalog) -> str | None:
    """Return where a catalog can be opened again, a live one at its live version; None for one in memory."""
    from reges_index.catalog import LiveCatalog
    from reges_index.catalog.live_state import usual_state_file
    from reges_index.catalog.place import is_url

    place = catalog.table.place
    folder = Path(place.removeprefix("qdrant:").removeprefix("lancedb:"))
    if isinstance(catalog, LiveCatalog) and catalog.state_file != usual_state_file(folder, catalog.base_name):
        return None
    return place if is_url(place) or folder.is_dir() else None


# -- files ---------------------------------------------------------------------------------------------------


class SavedCatalog(BaseModel):
    """Where a pipeline's catalog is.

    Attributes
    ----------
    store
        As for ``reges --store``: a folder, ``qdrant:FOLDER``, ``lancedb:FOLDER`` or ``http://host:port``;
        None where it is in memory or elsewhere.
    name
        Its name in the store.
    live
        Whether it is a `LiveCatalog`, opened at the version that is live then.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str | None = None
    name: str = "items"
    live: bool = False


class SavedPipeline(BaseModel):
    """What a pipeline file holds: all of the engine, and where its catalog is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    catalog: SavedCatalog = SavedCatalog()
    settings: PipelineSettings


def pipeline_text(saved: SavedPipeline, folder: Path | None = None) -> str:
    """Return the YAML of a pipeline.

    Parameters
    ----------
    folder
        Where the file will be: folders inside it are named relative to it, so that it can be moved as a
        whole. All others are named from the root.

    Raises
    ------
    ConfigError
        If the store's address holds a user name or password.
    """
    base = None if folder is None else folder.resolve()
    store = saved.catalog.store
    if store is not None and "://" in store:
        parts = urlsplit(store)
        if parts.username or parts.password or parts.query:
            raise ConfigError(
                "the store's address holds a user name, a password or a query, which no file may hold",
                hint="save the pipeline without its catalog, and name the store when you load it",
            )
    written = _with_places(saved, lambda place: _portable(place, base))
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "made_with": f"reges-index {version('reges-index')}",
    }
    content |= written.model_dump(mode="json", exclude=None if store is not None else {"catalog"})
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)


def write_pipeline(saved: SavedPipeline, path: str | Path) -> Path:
    """Write a pipeline file, whole or not at all; returns its path.

    Raises
    ------
    StorageError
        If it cannot be written. What was there stays.
    ConfigError
        As `pipeline_text`.
    """
    path = Path(path).expanduser()
    return write_text(path, pipeline_text(saved, path.parent))


def read_pipeline(path: str | Path) -> SavedPipeline:
    """Read a pipeline file that `write_pipeline` wrote, or that a person did.

    Places that begin with ``./`` or ``../`` are relative to the file, those with ``~`` to the home folder.

    Raises
    ------
    InputError
        If there is no such file.
    ConfigError
        If it is no pipeline file, of another version than this package reads, or holds unknown keys or
        values that cannot be.
    """
    path = Path(path).expanduser()
    content = read_yaml(path, hint="name a file that save_pipeline wrote")
    if content.get("format") != FORMAT:
        raise ConfigError(f"{path} is no pipeline file", hint=f"it must begin with 'format: {FORMAT}'")
    found = content.get("version")
    if found != VERSION or isinstance(found, bool):
        newer = isinstance(found, int) and found > VERSION
        again = "save the pipeline again; `reges presets NAME` shows the present form"
        raise ConfigError(
            f"{path} has version {found!r}; this version of the package reads {VERSION}",
            hint="pip install --upgrade reges-index" if newer else again,
        )
    held = {key: value for key, value in content.items() if key not in _HEAD}
    base = path.parent.resolve()
    saved = checked(SavedPipeline, held, where=str(path))
    return _with_places(saved, lambda place: _resolved(place, base))


def _with_places(saved: SavedPipeline, change: Callable[[str], str]) -> SavedPipeline:
    """Return it with everything changed that may name a folder."""
    settings = saved.settings
    places = {field: getattr(settings, field, settings.retrieval.retriever) for field in _PLACES}
    changed = {field: change(place) for field, place in places.items() if place is not None}
    kind, colon, rest = settings.encoder.partition(":")
    if kind == "dpr" and colon:
        changed["encoder"] = "dpr:" + ",".join(change(side.strip()) for side in rest.split(","))
    else:
        changed["encoder"] = change(settings.encoder)
    catalog, store = saved.catalog, saved.catalog.store
    if store is not None and "://" not in store:
        prefix = next((kind for kind in _STORES if store.startswith(kind)), "")
        catalog = catalog.model_copy(update={"store": prefix + change(store.removeprefix(prefix))})
    return SavedPipeline(catalog=catalog, settings=settings.with_options(**changed))


def _portable(place: str, base: Path | None) -> str:
    folder = Path(place).expanduser()
    if not folder.is_dir():
        return place
    folder = folder.resolve()
    if base is not None and folder.is_relative_to(base):
        return f"./{folder.relative_to(base).as_posix()}"
    return str(folder)


def _resolved(place: str, base: Path) -> str:
    if place.startswith(("./", "../")):
        return str((base / place).resolve())
    return str(Path(place).expanduser()) if place.startswith("~") else place


# -- what answers depend on ----------------------------------------------------------------------------------


def engine_inputs(engine: ReGeSQueryEngine) -> dict[str, str | None]:
    """Return hashes (the first 16 hex digits) of catalog, encoder, adapters and fusion.

    A resumed run can tell by them that something on the disk has changed. None for what the engine does
    without: no catalog of ours, the bare model, no fusion.
    """
    from reges_index.fusion.retriever import FusionRetriever

    catalog, retriever = engine.catalog, engine.retriever
    return {
        "catalog": catalog.fingerprint()[:16] if catalog is not None else None,
        "encoder": hash_of(asdict(catalog.encoder), digits=16) if catalog is not None else None,
        "query_adapter": _of_adapter(engine.query_transform),
        "item_adapter": _of_adapter(engine.rerank),
        # Not its manifest: a fusion fitted again with the same settings ranks otherwise.
        "fusion": retriever.model.fingerprint if isinstance(retriever, FusionRetriever) else None,
    }


def adapter_hash(folder: str | Path) -> str:
    """Return the hash of an adapter's files."""
    files = [file for name in _ADAPTER_FILES if (file := Path(folder) / name).is_file()]
    return sha256_of(*files)[:16]


def _of_adapter(expert: ReGeSQueryTransform | ReGeSRerank | None) -> str | None:
    from reges_index.models.backend import LocalBackend

    backend = expert.backend if expert is not None else None
    if not isinstance(backend, LocalBackend) or backend.adapter is None:
        return None
    return adapter_hash(backend.lm.adapter_paths[backend.adapter])
