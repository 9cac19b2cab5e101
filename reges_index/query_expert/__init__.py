"""Generation-augmented retrieval (section 2.3): the query expert LLM_QR."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reges_index.query_expert.events import QueryWrittenEvent as QueryWrittenEvent
    from reges_index.query_expert.prompt import DEFAULT_PSEUDO_QUERY_TMPL as DEFAULT_PSEUDO_QUERY_TMPL
    from reges_index.query_expert.prompt import DEFAULT_QUERY_TMPL as DEFAULT_QUERY_TMPL
    from reges_index.query_expert.prompt import build_query_prompt as build_query_prompt
    from reges_index.query_expert.retriever import ReGeSRetriever as ReGeSRetriever
    from reges_index.query_expert.transform import ReGeSQueryTransform as ReGeSQueryTransform
else:
    from reges_index._lazy import lazy_names

    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "DEFAULT_PSEUDO_QUERY_TMPL": "prompt",
            "DEFAULT_QUERY_TMPL": "prompt",
            "QueryWrittenEvent": "events",
            "ReGeSQueryTransform": "transform",
            "ReGeSRetriever": "retriever",
            "build_query_prompt": "prompt",
        },
    )
