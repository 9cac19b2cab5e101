"""Whole pipelines as plain values: presets, building an engine from them, saving and loading.

Names are loaded on first use: settings and presets can be read without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reges_index.pipeline.build import build_engine as build_engine
    from reges_index.pipeline.describe import describe_engine as describe_engine
    from reges_index.pipeline.file import SavedPipeline as SavedPipeline
    from reges_index.pipeline.file import read_pipeline as read_pipeline
    from reges_index.pipeline.file import write_pipeline as write_pipeline
    from reges_index.pipeline.inputs import engine_inputs as engine_inputs
    from reges_index.pipeline.presets import PRESETS as PRESETS
    from reges_index.pipeline.presets import Preset as Preset
    from reges_index.pipeline.presets import get_preset as get_preset
    from reges_index.pipeline.saving import load_pipeline as load_pipeline
    from reges_index.pipeline.saving import save_pipeline as save_pipeline
    from reges_index.pipeline.settings import DecodingSettings as DecodingSettings
    from reges_index.pipeline.settings import PipelineSettings as PipelineSettings
    from reges_index.pipeline.settings import ReasoningSettings as ReasoningSettings
else:
    from reges_index._lazy import lazy_names

    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "DecodingSettings": "settings",
            "PRESETS": "presets",
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
        },
    )
