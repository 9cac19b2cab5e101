"""Answers that arrive piece by piece: a finished one word by word, or a turn whose reasoning is read live."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextvars import copy_context
from dataclasses import dataclass, field
from types import TracebackType
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

__all__ = ["AsyncLiveTurn", "LiveTurn", "ReGeSChatStream", "async_stream", "stream"]

T = TypeVar("T")

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

        return _Closing(texts(), stream.close)

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

        return _AClosing(texts(), stream.aclose)


# -- a turn that runs while its reasoning is read -----------------------------------------------------------


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
    """

    def __init__(self, turn: Callable[[Callable[[], None]], Reply]) -> None:
        self._items: queue.SimpleQueue[str | Reply | BaseException] = queue.SimpleQueue()
        self._left = threading.Event()
        thread = threading.Thread(
            target=copy_context().run, args=(self._run, turn), name="reges-turn", daemon=True
        )
        thread.start()

    def _run(self, turn: Callable[[Callable[[], None]], Reply]) -> None:
        try:
            with hear_reasoning(self._hear):
                self._items.put(turn(self._check))
        except BaseException as problem:  # raised to the reader by next()
            self._items.put(problem)

    def _check(self) -> None:
        if self._left.is_set():
            raise ReasoningStopped("the reader left before the item was chosen")

    def _hear(self, piece: str) -> None:
        self._check()
        self._items.put(piece)

    def next(self) -> str | Reply:
        """Wait for the next piece of reasoning or, at the end, the reply; raise what went wrong."""
        item = self._items.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def leave(self) -> None:
        """End the turn if it still reasons; does nothing to one that has ended. Does not wait for it."""
        self._left.set()


class AsyncLiveTurn:
    """A turn in a task of its own; see `LiveTurn`."""

    def __init__(self, turn: Callable[[], Awaitable[Reply]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[str | None] = asyncio.Queue()

        async def run() -> Reply:
            return await turn()

        with hear_reasoning(self._hear):
            self._task = asyncio.create_task(run())  # which copies the context, and the listener with it
        self._task.add_done_callback(lambda _: self._items.put_nowait(None))

    def _hear(self, piece: str) -> None:
        # In the thread that writes. What is put here comes before the end, which goes the same way.
        self._loop.call_soon_threadsafe(self._items.put_nowait, piece)

    async def next(self) -> str | Reply:
        """Wait for the next piece of reasoning or, at the end, the reply; raise what went wrong."""
        item = await self._items.get()
        return await self._task if item is None else item

    async def leave(self) -> None:
        """End the turn if it still runs, and wait until it has ended."""
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.exception()  # has been raised to the reader, or is of no interest to one who left


# -- streams ------------------------------------------------------------------------------------------------


def stream(first: str | Reply, turn: LiveTurn | None = None) -> ReGeSChatStream:
    """Return a reply word by word, or a turn under way from the first piece of its reasoning on."""
    made, story = _told(first)

    def pieces() -> Generator[ChatResponse, None, None]:
        came: Reply | str | None = None
        try:
            while True:
                piece = story.send(came)
                came = None
                if piece is not None:
                    yield piece
                    continue
                assert turn is not None  # only reasoning asks for more, and that comes from a turn
                try:
                    came = turn.next()
                except BaseException as error:
                    story.throw(error)
        except StopIteration:
            return
        finally:
            story.close()
            if turn is not None:
                turn.leave()

    made.chat_stream = _Closing(pieces(), turn.leave) if turn is not None else pieces()
    return made


def async_stream(first: str | Reply, turn: AsyncLiveTurn | None = None) -> ReGeSChatStream:
    """Do `stream` for an event loop."""
    made, story = _told(first)

    async def pieces() -> AsyncGenerator[ChatResponse, None]:
        came: Reply | str | None = None
        try:
            while True:
                piece = story.send(came)
                came = None
                if piece is not None:
                    yield piece
                    continue
                assert turn is not None
                try:
                    came = await turn.next()
                except BaseException as error:
                    story.throw(error)
        except StopIteration:
            return
        finally:
            story.close()
            if turn is not None:
                await turn.leave()

    made.achat_stream = _AClosing(pieces(), turn.leave) if turn is not None else pieces()
    return made


Story = Generator[ChatResponse | None, Any, None]
"""Pieces of an answer; None asks for what comes next of the turn, and is sent it."""


def _told(first: str | Reply) -> tuple[ReGeSChatStream, Story]:
    # The memory has the answer already, so LlamaIndex's history-writing thread is not needed.
    made = ReGeSChatStream(is_writing_to_memory=False)
    if isinstance(first, Reply):
        made.fill(first)
    return made, _announced(_pieces(made, first), _Announcer())


def _pieces(made: ReGeSChatStream, first: str | Reply) -> Story:
    item, thought = first, ""
    while isinstance(item, str):
        thought += item
        message = ChatMessage(role=MessageRole.ASSISTANT, blocks=[ThinkingBlock(content=thought)])
        yield ChatResponse(message=message, delta=item, additional_kwargs={"thinking_delta": item})
        item = yield None
    made.fill(item)
    before = [ThinkingBlock(content=thought)] if thought else []
    if before:
        yield ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, blocks=before), delta="\n")
    written = ""
    for number, word in enumerate(item.text.split(" ")):
        delta = word if number == 0 else f" {word}"
        written += delta
        message = ChatMessage(role=MessageRole.ASSISTANT, blocks=[*before, TextBlock(text=written)])
        yield ChatResponse(message=message, delta=delta)


class _Announcer:
    """Sends LlamaIndex's events under the span of the call that made the stream, wherever it is read."""

    def __init__(self) -> None:
        self._span = active_span_id.get()

    def __call__(self, make: Callable[..., BaseEvent], **fields: Any) -> None:
        dispatcher.event(make(span_id=self._span, **fields))


def _announced(pieces: Story, announce: _Announcer) -> Story:
    announce(StreamChatStartEvent)
    came = None
    try:
        while True:
            piece = pieces.send(came)
            if piece is not None:
                announce(StreamChatDeltaReceivedEvent, delta=piece.delta or "")
            came = yield piece
    except StopIteration:
        announce(StreamChatEndEvent)
    except Exception as error:
        announce(StreamChatErrorEvent, exception=error)
        raise
    finally:
        pieces.close()


# The ``finally`` of a generator that was never begun does not run: a reader who leaves at once would leave
# behind what the generator was to end.


class _Closing(Generator[T, None, None]):
    """A generator's pieces; ``end`` is called when this is closed, even before the first piece."""

    def __init__(self, pieces: Generator[T, None, None], end: Callable[[], None]) -> None:
        self._pieces = pieces
        self._end = end

    def send(self, value: None) -> T:
        return self._pieces.send(value)

    def throw(
        self,
        typ: type[BaseException] | BaseException,
        _val: BaseException | object = None,
        _tb: TracebackType | None = None,
        /,
    ) -> T:
        return self._pieces.throw(typ if isinstance(typ, BaseException) else typ())

    def close(self) -> None:
        try:
            self._pieces.close()
        finally:
            self._end()


class _AClosing(AsyncGenerator[T, None]):
    """`_Closing` for an asynchronous generator."""

    def __init__(self, pieces: AsyncGenerator[T, None], end: Callable[[], Awaitable[None]]) -> None:
        self._pieces = pieces
        self._end = end

    async def asend(self, value: None) -> T:
        return await self._pieces.asend(value)

    async def athrow(
        self,
        typ: type[BaseException] | BaseException,
        _val: BaseException | object = None,
        _tb: TracebackType | None = None,
        /,
    ) -> T:
        return await self._pieces.athrow(typ if isinstance(typ, BaseException) else typ())

    async def aclose(self) -> None:
        try:
            await self._pieces.aclose()
        finally:
            await self._end()
