"""Beyond the paper: the encoder's vectors, words, titles and statistics weighed together, as one retriever.

No LLM runs, and what a catalog does not have counts for nothing. Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reges_index.fusion.features import FEATURES as FEATURES
    from reges_index.fusion.features import SOURCES as SOURCES
    from reges_index.fusion.features import DialogueState as DialogueState
    from reges_index.fusion.features import NamedItem as NamedItem
    from reges_index.fusion.model import FusionModel as FusionModel
    from reges_index.fusion.retriever import FusionRetriever as FusionRetriever
    from reges_index.fusion.statistics import ItemStatistics as ItemStatistics
else:
    from reges_index._lazy import lazy_names

    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "DialogueState": "features",
            "FEATURES": "features",
            "FusionModel": "model",
            "FusionRetriever": "retriever",
            "ItemStatistics": "statistics",
            "NamedItem": "features",
            "SOURCES": "features",
        },
    )
