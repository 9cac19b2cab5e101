"""Pipelines as YAML files: plain values, no pickles, no secrets; written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from reges_index.errors import ConfigError, InputError, StorageError
from reges_index.settings import PipelineSettings

__all__ = ["FORMAT", "VERSION", "SavedPipeline", "pipeline_text", "read_pipeline", "write_pipeline"]

FORMAT, VERSION = "reges-pipeline", 1
_KEYS = {"format", "version", "made_with", "catalog", "settings"}
_CATALOG_KEYS = {"store", "name", "live"}
_PLACES = ("llm", "query_llm", "query_adapter", "item_adapter", "retriever")
_STORES = ("chroma:", "qdrant:", "lancedb:")


@dataclass(frozen=True)
class SavedPipeline:
    """What a pipeline file holds.

    Attributes
    ----------
    settings
        All of the engine but its catalog.
    store
        Where the catalog is, as for ``reges --store``: a folder, ``qdrant:FOLDER``, ``lancedb:FOLDER`` or
        ``http://host:port``; None where it is in memory or elsewhere.
    catalog
        Its name in the store.
    live
        Whether it is a `LiveCatalog`, opened at the version that is live then.
    """

    settings: PipelineSettings
    store: str | None = None
    catalog: str = "items"
    live: bool = False


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
    if saved.store is not None and "://" in saved.store:
        parts = urlsplit(saved.store)
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
    if written.store is not None:
        content["catalog"] = {"store": written.store, "name": written.catalog, "live": written.live}
    content["settings"] = written.settings.model_dump(mode="json")
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
    text = pipeline_text(saved, path.parent)
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = file.name
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)  # noqa: PTH105 (the one call that is atomic everywhere)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise StorageError(
            f"{path} cannot be written ({error.strerror or error})",
            hint="free some space or choose another folder; what was there is as it was",
        ) from error
    return path


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
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error})", hint="name a file that save_pipeline wrote"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}", hint="save the pipeline again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ConfigError(f"{path} is no pipeline file", hint=f"it must begin with 'format: {FORMAT}'")
    _check_version(path, content.get("version"))
    if unknown := sorted(map(str, set(content) - _KEYS)):
        raise ConfigError(
            f"{path}: unknown key {', '.join(unknown)}", hint=f"known: {', '.join(sorted(_KEYS))}"
        )
    settings, catalog = content.get("settings"), content.get("catalog") or {}
    if not isinstance(settings, dict) or not isinstance(catalog, dict) or set(catalog) - _CATALOG_KEYS:
        raise ConfigError(
            f"{path}: 'settings' and 'catalog' must be mappings", hint="see `reges presets NAME`"
        )
    saved = SavedPipeline(
        PipelineSettings.parse(settings, where=str(path)),
        None if catalog.get("store") is None else str(catalog["store"]),
        str(catalog.get("name", "items")),
        catalog.get("live") is True,
    )
    base = path.parent.resolve()
    return _with_places(saved, lambda place: _resolved(place, base))


def _check_version(path: Path, found: Any) -> None:
    if found == VERSION and not isinstance(found, bool):
        return
    if isinstance(found, int) and found > VERSION:
        raise ConfigError(
            f"{path} has version {found}; this version of the package reads {VERSION}",
            hint="pip install --upgrade reges-index",
        )
    raise ConfigError(
        f"{path} has version {found!r}, which this version of the package does not read any more",
        hint="save the pipeline again; `reges presets NAME` shows the present form",
    )


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
    store = saved.store
    if store is not None and "://" not in store:
        prefix = next((kind for kind in _STORES if store.startswith(kind)), "")
        store = prefix + change(store.removeprefix(prefix))
    return replace(saved, settings=settings.with_options(**changed), store=store)


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
