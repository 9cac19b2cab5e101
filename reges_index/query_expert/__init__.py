"""Generation-augmented retrieval (section 2.3): the query expert LLM_QR."""

from reges_index.query_expert.decoding import QueryDecoding
from reges_index.query_expert.events import QueryWrittenEvent
from reges_index.query_expert.prompt import DEFAULT_PSEUDO_QUERY_TMPL, DEFAULT_QUERY_TMPL, build_query_prompt
from reges_index.query_expert.retriever import ReGeSRetriever
from reges_index.query_expert.transform import ReGeSQueryTransform

__all__ = [
    "DEFAULT_PSEUDO_QUERY_TMPL",
    "DEFAULT_QUERY_TMPL",
    "QueryDecoding",
    "QueryWrittenEvent",
    "ReGeSQueryTransform",
    "ReGeSRetriever",
    "build_query_prompt",
]
