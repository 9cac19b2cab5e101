"""An answer of the chat engine, and the LlamaIndex response objects that it becomes."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.base.response.schema import RESPONSE_TYPE, AsyncStreamingResponse
from llama_index.core.chat_engine.types import AgentChatResponse, StreamingAgentChatResponse
from llama_index.core.tools import ToolOutput

from reges_index.dialogue import one_line
from reges_index.engines.recommendation import Recommendation

__all__ = ["Reply", "as_response", "as_stream", "text_of", "whole_sentences"]

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
        """The recommendation, as the output of a tool; empty for small talk."""
        if self.found is None:
            return []
        return [
            ToolOutput(
                tool_name="reges",
                content=self.text,
                raw_input={"query": self.found.query},
                raw_output=self.found,
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


def as_stream(reply: Reply, *, asynchronous: bool = False) -> StreamingAgentChatResponse:
    """Return a reply as LlamaIndex's streaming response, word by word."""
    # The memory has the answer already, so LlamaIndex's history-writing thread is not needed.
    return StreamingAgentChatResponse(
        response=reply.text,
        sources=reply.sources,
        source_nodes=reply.found.nodes if reply.found else [],
        is_writing_to_memory=False,
        chat_stream=None if asynchronous else _pieces(reply.text),
        achat_stream=_apieces(reply.text) if asynchronous else None,
    )


def _pieces(text: str) -> Generator[ChatResponse, None, None]:
    written = ""
    for number, word in enumerate(text.split(" ")):
        delta = word if number == 0 else f" {word}"
        written += delta
        yield ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=written), delta=delta)


async def _apieces(text: str) -> AsyncGenerator[ChatResponse, None]:
    for piece in _pieces(text):
        yield piece
