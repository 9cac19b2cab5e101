"""One base LLM and its adapters: running it, scoring choices with it, and showing it to LlamaIndex.

Names are imported when first used, since torch and transformers take seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reges_index.models.adapters import AdapterManifest as AdapterManifest
    from reges_index.models.adapters import check_adapter as check_adapter
    from reges_index.models.adapters import load_manifest as load_manifest
    from reges_index.models.adapters import model_card as model_card
    from reges_index.models.embedded import resolve_base as resolve_base
    from reges_index.models.local_lm import LocalLM as LocalLM
else:
    from reges_index._lazy import lazy_names

    __getattr__, __dir__, __all__ = lazy_names(__name__)
