"""Both halves in LlamaIndex engines (section 2.1).

Names are imported when first used, so that `batch` can read its files without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reges_index.engines.chat_engine import ReGeSChatEngine as ReGeSChatEngine
    from reges_index.engines.query_engine import ReGeSQueryEngine as ReGeSQueryEngine
    from reges_index.engines.recommendation import Recommendation as Recommendation
    from reges_index.engines.small_talk import SmallTalkDetector as SmallTalkDetector
    from reges_index.engines.tool import as_query_engine_tool as as_query_engine_tool
    from reges_index.engines.workflow import ReGeSWorkflow as ReGeSWorkflow
else:
    from reges_index._lazy import lazy_names

    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "ReGeSChatEngine": "chat_engine",
            "ReGeSQueryEngine": "query_engine",
            "ReGeSWorkflow": "workflow",
            "Recommendation": "recommendation",
            "SmallTalkDetector": "small_talk",
            "as_query_engine_tool": "tool",
        },
    )
