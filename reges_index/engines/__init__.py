"""Both halves in LlamaIndex engines (section 2.1)."""

from reges_index.engines.chat_engine import ReGeSChatEngine
from reges_index.engines.query_engine import ReGeSQueryEngine
from reges_index.engines.recommendation import Recommendation
from reges_index.engines.small_talk import SmallTalkDetector

__all__ = ["ReGeSChatEngine", "ReGeSQueryEngine", "Recommendation", "SmallTalkDetector"]
