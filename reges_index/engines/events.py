"""What passes between the steps of `ReGeSWorkflow`, and what its stream shows.

Not to be confused with the events of LlamaIndex's instrumentation, which every engine sends whoever listens:
LlamaIndex's own, and `QueryWrittenEvent` and `ItemSelectedEvent` where it has none.
"""

from __future__ import annotations

from typing import Annotated, Any

from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.workflow import Event, StartEvent, StopEvent
from pydantic import Field, SkipValidation

from reges_index.dialogue import DialogueQueryBundle
from reges_index.engines.recommendation import Recommendation
from reges_index.engines.retrieval import Found
from reges_index.item_expert.ranking import Ranking

__all__ = [
    "CandidatesRanked",
    "CandidatesRetrieved",
    "DialogueReceived",
    "QueryWritten",
    "ReasoningPiece",
    "Recommended",
]

# Passed on as they are: pydantic would take dataclasses apart and build them again.
_Bundle = Annotated[DialogueQueryBundle, SkipValidation]


class DialogueReceived(StartEvent):
    """Begins a run: ``workflow.run(dialogue=..., exclude_ids=[...])``.

    Attributes
    ----------
    dialogue
        A string, a `Turn`, messages, or a query bundle.
    exclude_ids
        Items that must not be recommended.
    """

    dialogue: Any
    exclude_ids: list[str] = Field(default_factory=list)


class QueryWritten(Event):
    """The query expert has written the query.

    Attributes
    ----------
    bundle
        The dialogue with the refined query.
    exclude_ids
        As given.
    seconds
        What writing took.
    """

    bundle: _Bundle
    exclude_ids: list[str]
    seconds: float


class CandidatesRetrieved(Event):
    """The catalog has been searched.

    Attributes
    ----------
    bundle
        As in `QueryWritten`.
    found
        The candidates, and how many were taken out.
    seconds
        What writing and searching took, each.
    """

    bundle: _Bundle
    found: Annotated[Found, SkipValidation]
    seconds: tuple[float, float]


class ReasoningPiece(Event):
    """A piece of the item expert's reasoning (section 3.7.2), as it is written; in the stream only."""

    delta: str


class CandidatesRanked(Event):
    """The item expert has ranked the candidates.

    Attributes
    ----------
    ranking
        Candidates with probabilities, best first, and the report.
    recommendation
        What `ReGeSQueryEngine.recommend` returns.
    """

    ranking: Annotated[Ranking, SkipValidation]
    recommendation: Annotated[Recommendation, SkipValidation]


class Recommended(StopEvent):
    """Ends a run, and is what awaiting it gives.

    Attributes
    ----------
    response
        What `ReGeSQueryEngine.query` returns.
    recommendation
        What `ReGeSQueryEngine.recommend` returns.
    """

    response: Annotated[RESPONSE_TYPE, SkipValidation]
    recommendation: Annotated[Recommendation, SkipValidation]
