"""What on the disk an engine's answers depend on, as hashes: a resumed run can tell that it changed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from reges_index.engines.query_engine import ReGeSQueryEngine
from reges_index.engines.retrieval import CatalogSource
from reges_index.item_expert.rerank import ReGeSRerank
from reges_index.models.backend import LocalBackend
from reges_index.query_expert.transform import ReGeSQueryTransform

__all__ = ["adapter_hash", "engine_inputs"]

_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "reges_adapter.json")


def engine_inputs(engine: ReGeSQueryEngine) -> dict[str, str | None]:
    """Return hashes (SHA-256, the first 16 hex digits) of catalog, encoder, adapters and fusion.

    None for what the engine does without: no catalog of ours, the bare model, no fusion.
    """
    source = engine.retrieve_with
    fusion = source.fusion if isinstance(source, CatalogSource) else None
    catalog = engine.catalog
    return {
        "catalog": catalog.fingerprint()[:16] if catalog is not None else None,
        "encoder": _of(json.dumps(asdict(catalog.encoder), sort_keys=True)) if catalog is not None else None,
        "query_adapter": _of_adapter(engine.query_transform),
        "item_adapter": _of_adapter(engine.rerank),
        # Not its manifest: a fusion fitted again with the same settings ranks otherwise.
        "fusion": fusion.fingerprint if fusion is not None else None,
    }


def adapter_hash(folder: str | Path) -> str:
    """Return the hash of an adapter's files."""
    digest = hashlib.sha256()
    for name in _ADAPTER_FILES:
        file = Path(folder) / name
        if file.is_file():
            digest.update(f"{name}\0{file.stat().st_size}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _of_adapter(expert: ReGeSQueryTransform | ReGeSRerank | None) -> str | None:
    backend = expert.backend if expert is not None else None
    if not isinstance(backend, LocalBackend) or backend.adapter is None:
        return None
    return adapter_hash(backend.lm.adapter_paths[backend.adapter])


def _of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
