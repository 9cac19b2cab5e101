"""Both halves in LlamaIndex engines (section 2.1).

Names are imported when first used, so that `batch` can read its files without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reges_index.engines.chat_engine import ReGeSChatEngine
    from reges_index.engines.query_engine import ReGeSQueryEngine
    from reges_index.engines.recommendation import Recommendation
    from reges_index.engines.small_talk import SmallTalkDetector
    from reges_index.engines.tool import as_query_engine_tool
    from reges_index.engines.workflow import ReGeSWorkflow

_HOMES = {
    "ReGeSChatEngine": "chat_engine",
    "ReGeSQueryEngine": "query_engine",
    "ReGeSWorkflow": "workflow",
    "Recommendation": "recommendation",
    "SmallTalkDetector": "small_talk",
    "as_query_engine_tool": "tool",
}

__all__ = [
    "ReGeSChatEngine",
    "ReGeSQueryEngine",
    "ReGeSWorkflow",
    "Recommendation",
    "SmallTalkDetector",
    "as_query_engine_tool",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
