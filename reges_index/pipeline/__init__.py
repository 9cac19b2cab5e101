"""Pipelines as files: building an engine from settings, saving and loading.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reges_index.pipeline.building import build_engine as build_engine
    from reges_index.pipeline.building import load_pipeline as load_pipeline
    from reges_index.pipeline.building import save_pipeline as save_pipeline
    from reges_index.pipeline.file import SavedPipeline as SavedPipeline
    from reges_index.pipeline.file import read_pipeline as read_pipeline
    from reges_index.pipeline.file import write_pipeline as write_pipeline
    from reges_index.pipeline.inputs import engine_inputs as engine_inputs
else:
    from reges_index._lazy import lazy_names

    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "SavedPipeline": "file",
            "build_engine": "building",
            "engine_inputs": "inputs",
            "load_pipeline": "building",
            "read_pipeline": "file",
            "save_pipeline": "building",
            "write_pipeline": "file",
        },
    )
