"""Events around a ranking: LlamaIndex's own, and one that says what these leave out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index_instrumentation import get_dispatcher
from pydantic import BaseModel, ConfigDict

from reges_index.item_expert.prompt import SelectionPrompt
from reges_index.item_expert.ranking import RankedCandidate, Ranking
from reges_index.item_expert.selection import Selection

__all__ = ["CandidateScore", "ItemSelectedEvent", "rerank_events"]

dispatcher = get_dispatcher(__name__)


class CandidateScore(BaseModel):
    """One candidate of an `ItemSelectedEvent`; fields as in `RankedCandidate`."""

    id: str
    title: str
    rank: int
    probability: float | None
    logprob: float | None
    retrieval_score: float | None
    retrieval_rank: int


class ItemSelectedEvent(BaseEvent):
    """The item expert has ranked the candidates; sent between LlamaIndex's rerank start and end events.

    Attributes
    ----------
    model, adapter
        Which model chose, and with which of its adapters.
    messages
        The prompt as it was sent, but for the model's chat template.
    prompt_tokens, history_tokens, candidate_tokens
        Of the whole prompt text, and of the dialogue and the candidates in it.
    item_id
        The item on the first rank.
    candidates
        All candidates, best first.
    outcome
        How the choice came about; see `Selection`. "failed": the model could not be asked.
    answer
        The model's text, where it wrote the choice instead of having it scored.
    reasoning, reasoning_tokens
        What it wrote before the choice (section 3.7.2); None and 0 where it was not asked to.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=())

    model: str
    adapter: str | None
    messages: list[ChatMessage]
    prompt_tokens: int
    history_tokens: int
    candidate_tokens: int
    item_id: str
    candidates: list[CandidateScore]
    outcome: str
    answer: str | None
    reasoning: str | None
    reasoning_tokens: int

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the event."""
        return "ItemSelectedEvent"

    @classmethod
    def of(
        cls,
        prompt: SelectionPrompt,
        selection: Selection,
        ranked: Sequence[RankedCandidate],
        *,
        model: str,
        adapter: str | None,
        outcome: str,
    ) -> ItemSelectedEvent:
        """Build the event of one choice."""
        thought = selection.reasoning
        return cls(
            model=model,
            adapter=adapter,
            messages=list(prompt.messages),
            prompt_tokens=prompt.tokens,
            history_tokens=prompt.history.tokens,
            candidate_tokens=prompt.candidates.tokens,
            item_id=ranked[0].item.id,
            candidates=[
                CandidateScore(
                    id=candidate.item.id,
                    title=candidate.item.title,
                    rank=candidate.rank,
                    probability=candidate.probability,
                    logprob=candidate.logprob,
                    retrieval_score=candidate.retrieval_score,
                    retrieval_rank=candidate.retrieval_rank,
                )
                for candidate in ranked
            ],
            outcome=outcome,
            answer=selection.answer,
            reasoning=thought.text if thought is not None else None,
            reasoning_tokens=thought.tokens if thought is not None else 0,
        )


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
