"""`ReGeSWorkflow`: the query engine as a LlamaIndex workflow, one step for each stage of figure 2.

Its events are not to be confused with those of LlamaIndex's instrumentation, which every engine sends whoever
listens: LlamaIndex's own, and `QueryWrittenEvent` and `ItemSelectedEvent` where it has none.
"""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.workflow import Context, Event, StartEvent, StopEvent, Workflow, step
from pydantic import Field, SkipValidation

from reges_index.dialogue import DialogueQueryBundle
from reges_index.driver import arun
from reges_index.engines.query_engine import Recommendation, ReGeSQueryEngine
from reges_index.engines.retrieval import Found
from reges_index.item_expert.ranking import Ranking
from reges_index.item_expert.reasoning import hear_reasoning

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
    """The query expert has written the query, where there is one.

    Attributes
    ----------
    bundle
        The dialogue, with the refined query where one was written.
    seconds
        What writing took.
    """

    bundle: _Bundle
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
    """The item expert, or without one the retriever, has ranked the candidates.

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


class ReGeSWorkflow(Workflow):
    """Recommend in steps that a larger workflow can watch, replace or put others between.

    ``await workflow.run(dialogue=...)`` gives a `Recommended` event with the very response that the engine
    gives. ``handler.stream_events()`` yields what each step ends with, and a `ReasoningPiece` for each piece
    of reasoning where the item expert reasons. A subclass replaces a stage by overriding its step.

    Parameters
    ----------
    engine
        Whose parts and settings are used.
    timeout
        Seconds that a run may take; None, the default, lets it take its time.
    workflow_options
        Passed to LlamaIndex's ``Workflow`` (``verbose``, ``num_concurrent_runs``, ...).

    Raises
    ------
    InputError
        From a run: as `ReGeSQueryEngine.recommend`.
    """

    def __init__(
        self, engine: ReGeSQueryEngine, *, timeout: float | None = None, **workflow_options: Any
    ) -> None:
        super().__init__(timeout=timeout, **workflow_options)
        self.engine = engine

    @step
    async def write_query(self, ctx: Context, event: DialogueReceived) -> QueryWritten:
        """Let the query expert write the query (section 2.3)."""
        bundle = DialogueQueryBundle.from_dialogue(event.dialogue, exclude_ids=event.exclude_ids)
        start = time.perf_counter()
        refined = await arun(self.engine.writing(bundle))
        written = QueryWritten(bundle=refined, seconds=time.perf_counter() - start)
        ctx.write_event_to_stream(written)
        return written

    @step
    async def retrieve(self, ctx: Context, event: QueryWritten) -> CandidatesRetrieved:
        """Search the catalog, and take out what must not be recommended."""
        start = time.perf_counter()
        found = await arun(self.engine.retrieving(event.bundle))
        seconds = (event.seconds, time.perf_counter() - start)
        retrieved = CandidatesRetrieved(bundle=event.bundle, found=found, seconds=seconds)
        ctx.write_event_to_stream(retrieved)
        return retrieved

    @step
    async def rerank(self, ctx: Context, event: CandidatesRetrieved) -> CandidatesRanked:
        """Let the item expert rank what was found (section 2.4)."""
        loop = asyncio.get_running_loop()

        def show(piece: str) -> None:
            # Called in the thread in which the model writes.
            loop.call_soon_threadsafe(ctx.write_event_to_stream, ReasoningPiece(delta=piece))

        start = time.perf_counter()
        with hear_reasoning(show):
            ranking = await arun(self.engine.ranking(event.found, event.bundle))
        seconds = (*event.seconds, time.perf_counter() - start)
        recommendation = self.engine.recommendation(event.bundle, ranking, event.found, seconds)
        ranked = CandidatesRanked(ranking=ranking, recommendation=recommendation)
        ctx.write_event_to_stream(ranked)
        return ranked

    @step
    async def answer(self, event: CandidatesRanked) -> Recommended:
        """Word the answer."""
        response = await self.engine.aanswer(event.recommendation)
        return Recommended(response=response, recommendation=event.recommendation)
