"""Beyond the paper: many candidate sources, a trained query side and a calibrated final choice.

Every part is optional and can be switched off. Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reges_index.fusion.adapter import QueryAdapter as QueryAdapter
    from reges_index.fusion.choice import ChoiceWeights as ChoiceWeights
    from reges_index.fusion.model import FusionModel as FusionModel
    from reges_index.fusion.retriever import FusionRetriever as FusionRetriever
    from reges_index.fusion.scoring import SOURCES as SOURCES
    from reges_index.fusion.state import DialogueState as DialogueState
    from reges_index.fusion.state import NamedItem as NamedItem
    from reges_index.fusion.state import StateReader as StateReader
    from reges_index.fusion.statistics import ItemStatistics as ItemStatistics
else:
    from reges_index._lazy import lazy_names

    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "ChoiceWeights": "choice",
            "DialogueState": "state",
            "FusionModel": "model",
            "FusionRetriever": "retriever",
            "ItemStatistics": "statistics",
            "NamedItem": "state",
            "QueryAdapter": "adapter",
            "SOURCES": "scoring",
            "StateReader": "state",
        },
    )
