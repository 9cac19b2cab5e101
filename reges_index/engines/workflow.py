"""`ReGeSWorkflow`: the query engine as a LlamaIndex workflow, one step for each stage of figure 2."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from llama_index.core.workflow import Context, Workflow, step

from reges_index.engines.arguments import as_bundle, unique_ids
from reges_index.engines.events import (
    CandidatesRanked,
    CandidatesRetrieved,
    DialogueReceived,
    QueryWritten,
    ReasoningPiece,
    Recommended,
)
from reges_index.engines.query_engine import ReGeSQueryEngine
from reges_index.engines.retrieval import aretrieve
from reges_index.item_expert.reasoning import hear_reasoning

__all__ = ["ReGeSWorkflow"]


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
        bundle, exclude = as_bundle(event.dialogue), unique_ids(event.exclude_ids)
        start = time.perf_counter()
        refined = await self.engine.query_transform.arun(bundle)
        written = QueryWritten(bundle=refined, exclude_ids=exclude, seconds=time.perf_counter() - start)
        ctx.write_event_to_stream(written)
        return written

    @step
    async def retrieve(self, ctx: Context, event: QueryWritten) -> CandidatesRetrieved:
        """Search the catalog, and take out what must not be recommended."""
        start = time.perf_counter()
        with self.engine.turn():  # one version of a live catalog, whatever is swapped meanwhile
            found = await aretrieve(
                self.engine.retrieve_with,
                event.bundle,
                top_k=self.engine.similarity_top_k,
                exclude_ids=event.exclude_ids,
                exclude_mentioned=self.engine.exclude_mentioned,
            )
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
            ranking = await self.engine.arank_candidates(event.found, event.bundle)
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
