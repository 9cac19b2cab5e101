"""LlamaIndex's own events around a ranking, for its callbacks and its instrumentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index_instrumentation import get_dispatcher

from reges_index.item_expert.ranking import Ranking

__all__ = ["rerank_events"]

dispatcher = get_dispatcher(__name__)


@contextmanager
def rerank_events(
    callbacks: CallbackManager,
    nodes: Sequence[NodeWithScore],
    query_bundle: QueryBundle,
    *,
    model: str,
    top_n: int,
) -> Iterator[Callable[[Ranking], Ranking]]:
    """Send LlamaIndex's rerank events around a block, which hands its ranking to what this yields.

    Parameters
    ----------
    callbacks
        The component's callback manager.
    nodes, query_bundle
        What is ranked, and for which query.
    model
        Name of the model that ranks.
    top_n
        How many of the ranked nodes are returned.
    """
    given = list(nodes)
    ranked: list[NodeWithScore] = []
    dispatcher.event(ReRankStartEvent(query=query_bundle, nodes=given, top_n=top_n, model_name=model))
    payload: dict[str, Any] = {
        EventPayload.NODES: given,
        EventPayload.MODEL_NAME: model,
        EventPayload.QUERY_STR: query_bundle.query_str,
        EventPayload.TOP_K: top_n,
    }

    def done(ranking: Ranking) -> Ranking:
        ranked.extend(candidate.node for candidate in ranking.candidates[:top_n])
        return ranking

    with callbacks.event(CBEventType.RERANKING, payload=payload) as event:
        yield done
        event.on_end(payload={EventPayload.NODES: ranked})
    dispatcher.event(ReRankEndEvent(nodes=ranked))
