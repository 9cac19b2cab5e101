"""The query engine as a tool for LlamaIndex agents."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llama_index.core.schema import QueryBundle
from llama_index.core.tools import QueryEngineTool, ToolMetadata, ToolOutput

from reges_index.dialogue import DialogueQueryBundle
from reges_index.engines.query_engine import ReGeSQueryEngine

_DESCRIPTION = (
    "Recommends one {noun} from the catalog. The input says in the user's own words what they look for, and "
    "what they like and dislike, from the whole conversation. The output is the title of the {noun}. Name no "
    "other {noun} than the one it returns."
)


class RecommendTool(QueryEngineTool):
    """LlamaIndex's ``QueryEngineTool``, which also takes a dialogue.

    An agent's LLM calls it with ``input``, a string. Code may give a dialogue in its place, in any form that
    `ReGeSQueryEngine.recommend` takes: ``tool.call(messages)`` or ``tool.call(input=messages)``. The output's
    ``content`` is the engine's answer as text, ``raw_output`` its response with the metadata. Items that must
    not be recommended are named by ``exclude_ids=[...]``.
    """

    def call(self, *args: Any, **kwargs: Any) -> ToolOutput:
        """Recommend."""
        bundle = self._bundle(*args, **kwargs)
        return self._output(bundle, self.query_engine.query(bundle))

    async def acall(self, *args: Any, **kwargs: Any) -> ToolOutput:
        """Recommend without blocking the event loop."""
        bundle = self._bundle(*args, **kwargs)
        return self._output(bundle, await self.query_engine.aquery(bundle))

    def _bundle(self, *args: Any, exclude_ids: Iterable[str] = (), **kwargs: Any) -> QueryBundle:
        given = args[0] if args else kwargs.get("input")
        if given is None or isinstance(given, str):
            given = self._get_query_str(*args, **kwargs)  # as LlamaIndex reads what a model calls it with
        return DialogueQueryBundle.from_dialogue(given, exclude_ids=exclude_ids)

    def _output(self, bundle: QueryBundle, response: Any) -> ToolOutput:
        return ToolOutput(
            content=str(response),
            tool_name=self.metadata.get_name(),
            raw_input={"input": bundle.query_str},
            raw_output=response,
        )


def as_query_engine_tool(
    engine: ReGeSQueryEngine,
    *,
    name: str | None = None,
    description: str | None = None,
    return_direct: bool = False,
) -> RecommendTool:
    """Return a tool by which an agent recommends.

    Parameters
    ----------
    name
        By default ``recommend_`` and what an item is called, such as ``recommend_movie``.
    description
        What the agent's LLM reads of it; the default says what to put in and what comes out.
    return_direct
        End the agent's turn with the tool's output, so that no LLM can put another title in its place.
    """
    noun = engine.domain.noun
    metadata = ToolMetadata(
        name=name or f"recommend_{'_'.join(noun.split())}",
        description=description or _DESCRIPTION.format(noun=noun),
        return_direct=return_direct,
    )
    return RecommendTool(query_engine=engine, metadata=metadata)
