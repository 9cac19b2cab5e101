"""Beyond the paper: many candidate sources, a trained query side and a calibrated final choice.

Every part is optional and can be switched off. Names are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reges_index.fusion.adapter import QueryAdapter
    from reges_index.fusion.choice import ChoiceWeights
    from reges_index.fusion.linker import EntityLinker, Mention
    from reges_index.fusion.model import FusionModel
    from reges_index.fusion.retriever import FusionRetriever
    from reges_index.fusion.scoring import SOURCES
    from reges_index.fusion.state import DialogueState, NamedItem, StateReader
    from reges_index.fusion.statistics import ItemStatistics

_MODULES = {
    "SOURCES": "scoring",
    "ChoiceWeights": "choice",
    "DialogueState": "state",
    "EntityLinker": "linker",
    "FusionModel": "model",
    "FusionRetriever": "retriever",
    "ItemStatistics": "statistics",
    "Mention": "linker",
    "NamedItem": "state",
    "QueryAdapter": "adapter",
    "StateReader": "state",
}

__all__ = [
    "SOURCES",
    "ChoiceWeights",
    "DialogueState",
    "EntityLinker",
    "FusionModel",
    "FusionRetriever",
    "ItemStatistics",
    "Mention",
    "NamedItem",
    "QueryAdapter",
    "StateReader",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
