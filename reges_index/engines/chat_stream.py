"""Answers that arrive piece by piece: a finished one word by word, or a turn whose reasoning is read live."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

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

from reges_index.engines.session import Reply
from reges_index.item_expert.reasoning import ReasoningStopped, hear_reasoning

T = TypeVar("T")

dispatcher = get_dispatcher(__name__)

Came = str | Reply | BaseException
"""What comes of a turn: pieces of its reasoning, then the reply or what went wrong."""


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
                yield ""
                for piece in stream:
                    self.unformatted_response += piece.delta or ""
                    yield piece.delta or ""
            finally:
                stream.close()  # this object holds it too, so it would not end by itself

        return _begun(texts())

    def async_response_gen(self) -> AsyncGenerator[str, None]:
        """Return the pieces of text; leaving early ends the turn, see `ReGeSChatEngine.astream_chat`."""
        stream = self.achat_stream
        if stream is None:
            raise ValueError("this is a synchronous stream: use response_gen")

        async def texts() -> AsyncGenerator[str, None]:
            try:
                yield ""
                async for piece in stream:
                    self.unformatted_response += piece.delta or ""
                    yield piece.delta or ""
            finally:
                await stream.aclose()

        return _abegun(texts())


def _begun(pieces: Generator[T, None, None]) -> Generator[T, None, None]:
    """Go to the first ``yield``, which stands in a ``try``: one never begun would not run its ``finally``."""
    next(pieces)
    return pieces


def _abegun(pieces: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    with suppress(StopIteration):  # how an await ends that has nothing to wait for
        pieces.asend(None).__await__().send(None)
    return pieces


class LiveTurn:
    """A turn in a thread of its own, which goes on while its reasoning is read.

    A reader who leaves before the item is chosen ends the turn at the next token; nothing of it is
    remembered. The queue between has no bound: a slow reader, or one who never begins, holds up no other
    turn.

    Parameters
    ----------
    turn
        Runs the turn. It is given a function to call before the memory changes, which raises
        `ReasoningStopped` if the reader has left.
    put
        Takes what comes.
    """

    def __init__(self, turn: Callable[[Callable[[], None]], Reply], put: Callable[[Came], Any]) -> None:
        self._put = put
        self._left = threading.Event()
        run = partial(copy_context().run, self._run, turn)
        threading.Thread(target=run, name="reges-turn", daemon=True).start()

    def _run(self, turn: Callable[[Callable[[], None]], Reply]) -> None:
        came: Came
        try:
            with hear_reasoning(self._hear):
                came = turn(self._check)
        except BaseException as problem:  # raised to the reader
            came = problem
        if not self._left.is_set():  # the reader's event loop may have ended with it
            self._put(came)

    def _check(self) -> None:
        if self._left.is_set():
            raise ReasoningStopped("the reader left before the item was chosen")

    def _hear(self, piece: str) -> None:
        self._check()
        self._put(piece)

    def leave(self) -> None:
        """End the turn if it still reasons; does nothing to one that has ended. Does not wait for it."""
        self._left.set()


Turn = Callable[[Callable[[], None]], Reply]
"""Runs a turn, as `LiveTurn` takes it."""


def _begin(reply: Reply | Turn, put: Callable[[Came], Any]) -> Callable[[], None]:
    """Begin a turn, or hand on what has ended already; return what to call when the reader leaves."""
    if not isinstance(reply, Reply):
        return LiveTurn(reply, put).leave
    put(reply)
    return lambda: None


def stream(reply: Reply | Turn) -> ReGeSChatStream:
    """Return a reply word by word; or begin a turn, and return it from the first piece of its reasoning on.

    What goes wrong before that piece is raised here, and what goes wrong later to the reader.
    """
    came = queue.SimpleQueue[Came]()
    leave = _begin(reply, came.put)
    try:
        made, story = _told(came.get())
    except BaseException:
        leave()
        raise

    def pieces() -> Generator[ChatResponse, None, None]:
        try:
            yield _NOTHING
            sent: Came | None = None
            with suppress(StopIteration):
                while True:
                    piece = story.send(sent)
                    sent = came.get() if piece is None else None
                    if piece is not None:
                        yield piece
        finally:
            leave()

    made.chat_stream = _begun(pieces())
    return made


async def async_stream(reply: Reply | Turn) -> ReGeSChatStream:
    """Do `stream` without blocking the event loop."""
    came, loop = asyncio.Queue[Came](), asyncio.get_running_loop()
    leave = _begin(reply, lambda piece: loop.call_soon_threadsafe(came.put_nowait, piece))
    try:
        made, story = _told(await came.get())
    except BaseException:
        leave()
        raise

    async def pieces() -> AsyncGenerator[ChatResponse, None]:
        try:
            yield _NOTHING
            sent: Came | None = None
            with suppress(StopIteration):
                while True:
                    piece = story.send(sent)
                    sent = await came.get() if piece is None else None
                    if piece is not None:
                        yield piece
        finally:
            leave()

    made.achat_stream = _abegun(pieces())
    return made


_NOTHING = ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT))
Story = Generator[ChatResponse | None, Came | None, None]
"""Pieces of an answer; None asks for what comes next of the turn, and is sent it."""


def _told(first: Came) -> tuple[ReGeSChatStream, Story]:
    if isinstance(first, BaseException):
        raise first
    # The memory has the answer already, so LlamaIndex's history-writing thread is not needed.
    made = ReGeSChatStream(is_writing_to_memory=False)
    if isinstance(first, Reply):
        made.fill(first)
    # Events are sent under the span of the call that made the stream, wherever it is read.
    return made, _story(made, first, active_span_id.get())


def _story(made: ReGeSChatStream, first: str | Reply, span: str | None) -> Story:
    def announce(kind: Callable[..., BaseEvent], **fields: Any) -> None:
        dispatcher.event(kind(span_id=span, **fields))

    def piece(delta: str, *blocks: ThinkingBlock | TextBlock, **more: str) -> ChatResponse:
        announce(StreamChatDeltaReceivedEvent, delta=delta)
        message = ChatMessage(role=MessageRole.ASSISTANT, blocks=list(blocks))
        return ChatResponse(message=message, delta=delta, additional_kwargs=more)

    announce(StreamChatStartEvent)
    came: Came | None = first
    thought = ""
    while isinstance(came, str):
        thought += came
        yield piece(came, ThinkingBlock(content=thought), thinking_delta=came)
        came = yield None
    if isinstance(came, Exception):
        announce(StreamChatErrorEvent, exception=came)
    if isinstance(came, BaseException):
        raise came
    assert came is not None  # what asks for more is sent it
    made.fill(came)
    before = [ThinkingBlock(content=thought)] if thought else []
    if before:
        yield piece("\n", *before)
    written = ""
    for number, word in enumerate(came.text.split(" ")):
        delta = word if number == 0 else f" {word}"
        written += delta
        yield piece(delta, *before, TextBlock(text=written))
    announce(StreamChatEndEvent)
