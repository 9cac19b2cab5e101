"""One base LLM and its adapters: running it, scoring choices with it, and showing it to LlamaIndex.

Names are imported when first used, since torch and transformers take seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reges_index.models.adapters import AdapterManifest as AdapterManifest
    from reges_index.models.adapters import check_adapter as check_adapter
    from reges_index.models.adapters import load_manifest as load_manifest
    from reges_index.models.adapters import save_manifest as save_manifest
    from reges_index.models.embedded import BaseLocation as BaseLocation
    from reges_index.models.embedded import resolve_base as resolve_base
    from reges_index.models.generation import Generation as Generation
    from reges_index.models.llm import ReGeSLLM as ReGeSLLM
    from reges_index.models.llm import wrap_llm as wrap_llm
    from reges_index.models.local_lm import LocalLM as LocalLM
    from reges_index.models.local_lm import Prompt as Prompt
    from reges_index.models.model_card import model_card as model_card
    from reges_index.models.tree_scoring import ChoiceScore as ChoiceScore

_HOMES = {
    "AdapterManifest": "adapters",
    "BaseLocation": "embedded",
    "ChoiceScore": "tree_scoring",
    "Generation": "generation",
    "LocalLM": "local_lm",
    "Prompt": "local_lm",
    "ReGeSLLM": "llm",
    "check_adapter": "adapters",
    "load_manifest": "adapters",
    "model_card": "model_card",
    "resolve_base": "embedded",
    "save_manifest": "adapters",
    "wrap_llm": "llm",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
