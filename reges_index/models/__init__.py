"""One base LLM and its adapters: running it, scoring choices with it, and showing it to LlamaIndex.

Names are imported when first used, since torch and transformers take seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reges_index.models.adapter_card import model_card as model_card
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
    from reges_index.models.tree_scoring import ChoiceScore as ChoiceScore
else:
    from reges_index._lazy import lazy_names

    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "AdapterManifest": "adapters",
            "BaseLocation": "embedded",
            "ChoiceScore": "tree_scoring",
            "Generation": "generation",
            "LocalLM": "local_lm",
            "Prompt": "local_lm",
            "ReGeSLLM": "llm",
            "check_adapter": "adapters",
            "load_manifest": "adapters",
            "model_card": "adapter_card",
            "resolve_base": "embedded",
            "save_manifest": "adapters",
            "wrap_llm": "llm",
        },
    )
