"""Answers that arrive piece by piece: a finished one word by word, or a turn whose reasoning is read live."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole, TextBlock, ThinkingBlock
from llama_index.core.chat_engine.types import StreamingAgentChatResponse
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.chat_engine import (
    StreamChatDeltaReceivedEvent,
    StreamChatEndEvent,
    StreamChatErrorEvent,
    StreamChatStartEvent,
)
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.span import active_span_id

from reges_index.engines.chat_reply import Reply
from reges_index.engines.closing import AClosing, Closing
from reges_index.engines.live_turn import AsyncLiveTurn, LiveTurn

__all__ = ["ReGeSChatStream", "alive_stream", "finished_stream", "live_stream"]

dispatcher = get_dispatcher(__name__)


@dataclass
class ReGeSChatStream(StreamingAgentChatResponse):
    """LlamaIndex's streaming chat response, with metadata, ended when its reader leaves.

    What `response_gen` and `async_response_gen` yield is the reasoning, where the item expert writes one, a
    line break, and the answer. ``response`` is the answer alone, as the memory keeps it. Who reads
    ``chat_stream`` (``achat_stream``) itself can tell the two apart: pieces of the reasoning have it as
    ``additional_kwargs["thinking_delta"]`` and as a ``ThinkingBlock``, where LlamaIndex's LLMs put theirs.

    Attributes
    ----------
    metadata
        As of `ReGeSChatEngine.chat`'s response. With a live reasoning it is filled, as are ``response``,
        ``sources`` and ``source_nodes``, when the item has been chosen: before the first piece of the answer.
    """

    metadata: dict[str, Any] = field(default_factory=dict)

    def fill(self, reply: Reply) -> None:
        """Take what is known of the turn now that it has ended."""
        self.response = reply.text
        self.metadata = reply.metadata
        self.sources = reply.sources
        self.source_nodes = reply.found.nodes if reply.found else []

    @property
    def response_gen(self) -> Generator[str, None, None]:
        """The pieces of text; leaving early ends the turn, see `ReGeSChatEngine.stream_chat`."""
        stream = self.chat_stream
        if stream is None:
            raise ValueError("this is an asynchronous stream: use async_response_gen()")

        def texts() -> Generator[str, None, None]:
            try:
                for piece in stream:
                    self.unformatted_response += piece.delta or ""
                    yield piece.delta or ""
            finally:
                stream.close()  # this object holds it too, so it would not end by itself

        return Closing(texts(), stream.close)

    def async_response_gen(self) -> AsyncGenerator[str, None]:
        """Return the pieces of text; leaving early ends the turn, see `ReGeSChatEngine.astream_chat`."""
        stream = self.achat_stream
        if stream is None:
            raise ValueError("this is a synchronous stream: use response_gen")

        async def texts() -> AsyncGenerator[str, None]:
            try:
                async for piece in stream:
                    self.unformatted_response += piece.delta or ""
                    yield piece.delta or ""
            finally:
                await stream.aclose()

        return AClosing(texts(), stream.aclose)


def finished_stream(reply: Reply, *, asynchronous: bool = False) -> ReGeSChatStream:
    """Return a reply that is complete as a stream of its words."""
    # The memory has the answer already, so LlamaIndex's history-writing thread is not needed.
    stream = ReGeSChatStream(is_writing_to_memory=False)
    stream.fill(reply)
    announce = _Announcer()
    if asynchronous:
        stream.achat_stream = _aannounced(_awords(reply), announce)
    else:
        stream.chat_stream = _announced(_words(reply), announce)
    return stream


def live_stream(turn: LiveTurn, first: str) -> ReGeSChatStream:
    """Return a turn under way as a stream, from the first piece of its reasoning on."""
    stream = ReGeSChatStream(is_writing_to_memory=False)

    def pieces() -> Generator[ChatResponse, None, None]:
        item: str | Reply = first
        thought = ""
        try:
            while isinstance(item, str):
                thought += item
                yield _thinking(thought, item)
                item = turn.next()
        finally:
            turn.leave()
        stream.fill(item)
        yield _line_break(thought)
        yield from _words(item, thought)

    stream.chat_stream = Closing(_announced(pieces(), _Announcer()), turn.leave)
    return stream


def alive_stream(turn: AsyncLiveTurn, first: str) -> ReGeSChatStream:
    """Do `live_stream` for an asynchronous turn."""
    stream = ReGeSChatStream(is_writing_to_memory=False)

    async def pieces() -> AsyncGenerator[ChatResponse, None]:
        item: str | Reply = first
        thought = ""
        try:
            while isinstance(item, str):
                thought += item
                yield _thinking(thought, item)
                item = await turn.next()
        finally:
            await turn.leave()
        stream.fill(item)
        yield _line_break(thought)
        for word in _words(item, thought):
            yield word

    stream.achat_stream = AClosing(_aannounced(pieces(), _Announcer()), turn.leave)
    return stream


# -- pieces ------------------------------------------------------------------------------------------------


def _thinking(thought: str, piece: str) -> ChatResponse:
    message = ChatMessage(role=MessageRole.ASSISTANT, blocks=[ThinkingBlock(content=thought)])
    return ChatResponse(message=message, delta=piece, additional_kwargs={"thinking_delta": piece})


def _line_break(thought: str) -> ChatResponse:
    message = ChatMessage(role=MessageRole.ASSISTANT, blocks=[ThinkingBlock(content=thought)])
    return ChatResponse(message=message, delta="\n")


def _words(reply: Reply, thought: str = "") -> Generator[ChatResponse, None, None]:
    before = [ThinkingBlock(content=thought)] if thought else []
    written = ""
    for number, word in enumerate(reply.text.split(" ")):
        delta = word if number == 0 else f" {word}"
        written += delta
        message = ChatMessage(role=MessageRole.ASSISTANT, blocks=[*before, TextBlock(text=written)])
        yield ChatResponse(message=message, delta=delta)


async def _awords(reply: Reply) -> AsyncGenerator[ChatResponse, None]:
    for word in _words(reply):
        yield word


# -- LlamaIndex's events of a stream -----------------------------------------------------------------------


class _Announcer:
    """Sends events under the span of the call that made the stream, wherever the stream is read."""

    def __init__(self) -> None:
        self._span = active_span_id.get()

    def __call__(self, make: Callable[..., BaseEvent], **fields: Any) -> None:
        dispatcher.event(make(span_id=self._span, **fields))


def _announced(
    pieces: Generator[ChatResponse, None, None], announce: _Announcer
) -> Generator[ChatResponse, None, None]:
    announce(StreamChatStartEvent)
    try:
        for piece in pieces:
            announce(StreamChatDeltaReceivedEvent, delta=piece.delta or "")
            yield piece
    except Exception as error:
        announce(StreamChatErrorEvent, exception=error)
        raise
    finally:
        pieces.close()
    announce(StreamChatEndEvent)


async def _aannounced(
    pieces: AsyncGenerator[ChatResponse, None], announce: _Announcer
) -> AsyncGenerator[ChatResponse, None]:
    announce(StreamChatStartEvent)
    try:
        async for piece in pieces:
            announce(StreamChatDeltaReceivedEvent, delta=piece.delta or "")
            yield piece
    except Exception as error:
        announce(StreamChatErrorEvent, exception=error)
        raise
    finally:
        await pieces.aclose()
    announce(StreamChatEndEvent)
