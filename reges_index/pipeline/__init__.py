"""Whole pipelines as plain values: presets, building an engine from them, saving and loading.

Names are loaded on first use: settings and presets can be read without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reges_index.pipeline.build import build_engine
    from reges_index.pipeline.describe import describe_engine
    from reges_index.pipeline.file import SavedPipeline, read_pipeline, write_pipeline
    from reges_index.pipeline.inputs import engine_inputs
    from reges_index.pipeline.presets import PRESETS, Preset, get_preset
    from reges_index.pipeline.saving import load_pipeline, save_pipeline
    from reges_index.pipeline.settings import DecodingSettings, PipelineSettings, ReasoningSettings

_MODULES = {
    "PRESETS": "presets",
    "DecodingSettings": "settings",
    "PipelineSettings": "settings",
    "Preset": "presets",
    "ReasoningSettings": "settings",
    "SavedPipeline": "file",
    "build_engine": "build",
    "describe_engine": "describe",
    "engine_inputs": "inputs",
    "get_preset": "presets",
    "load_pipeline": "saving",
    "read_pipeline": "file",
    "save_pipeline": "saving",
    "write_pipeline": "file",
}

__all__ = [
    "PRESETS",
    "DecodingSettings",
    "PipelineSettings",
    "Preset",
    "ReasoningSettings",
    "SavedPipeline",
    "build_engine",
    "describe_engine",
    "engine_inputs",
    "get_preset",
    "load_pipeline",
    "read_pipeline",
    "save_pipeline",
    "write_pipeline",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
