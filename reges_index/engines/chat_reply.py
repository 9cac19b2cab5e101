"""An answer of the chat engine, and the LlamaIndex response object that it becomes."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from llama_index.core.base.response.schema import RESPONSE_TYPE, AsyncStreamingResponse
from llama_index.core.chat_engine.types import AgentChatResponse
from llama_index.core.tools import ToolOutput

from reges_index.dialogue import one_line
from reges_index.engines.recommendation import Recommendation

__all__ = ["Reply", "as_response", "text_of", "whole_sentences"]

_SENTENCE_END = re.compile(r"[.!?…]+[\"”’)]*(?=\s|$)")


@dataclass(frozen=True)
class Reply:
    """One answer before it is put into a LlamaIndex response object."""

    text: str
    found: Recommendation | None
    response: RESPONSE_TYPE | None

    @property
    def metadata(self) -> dict[str, Any]:
        """What LlamaIndex's response says beside the text."""
        if self.response is None:
            return {"small_talk": True, "item_id": None}
        return {"small_talk": False, **(self.response.metadata or {})}

    @property
    def sources(self) -> list[ToolOutput]:
        """The recommendation, as the output of a tool; empty for small talk.

        Its report says what became of the answer, too.
        """
        if self.found is None:
            return []
        report = self.metadata.get("report", self.found.report)
        return [
            ToolOutput(
                tool_name="reges",
                content=self.text,
                raw_input={"query": self.found.query},
                raw_output=replace(self.found, report=report),
            )
        ]


def whole_sentences(text: str) -> str:
    """Return the first line of what the model wrote, without a sentence that the token limit cut off."""
    line = next((one_line(line) for line in text.splitlines() if line.strip()), "Hello! What do you like?")
    ends = [match.end() for match in _SENTENCE_END.finditer(line)]
    return line[: ends[-1]] if ends else line


async def text_of(response: RESPONSE_TYPE) -> str:
    """Return the whole text of a response, reading its stream where it is one."""
    return str(await response.get_response() if isinstance(response, AsyncStreamingResponse) else response)


def as_response(reply: Reply) -> AgentChatResponse:
    """Return a reply as LlamaIndex's chat response."""
    return AgentChatResponse(
        response=reply.text,
        sources=reply.sources,
        source_nodes=reply.found.nodes if reply.found else [],
        metadata=reply.metadata,
    )
