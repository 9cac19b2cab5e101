"""Sessions: each page that is open in a browser has a conversation of its own."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from llama_index.core.base.llms.types import ChatMessage, ThinkingBlock
from llama_index.core.chat_engine.types import StreamingAgentChatResponse

from reges_index.engines.chat_engine import ReGeSChatEngine
from reges_index.engines.query_engine import Recommendation
from reges_index.ui.choices import Choices
from reges_index.ui.shelf import Shelf


@dataclass(frozen=True)
class Exchange:
    """One message and its answer, as far as it has been streamed.

    Attributes
    ----------
    thought
        The item expert's reasoning, where it writes one before the answer.
    found
        None for small talk, and while the answer is on its way.
    whole
        The answer as it will be, known from its first word on.
    """

    message: str
    answer: str = ""
    thought: str = ""
    found: Recommendation | None = None
    whole: str = ""


class Session:
    """One conversation. What it shows (`exchanges`) and what its chat engine remembers go together."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._chat: ReGeSChatEngine | None = None
        self._catalog: str | None = None
        self._turn = asyncio.Lock()
        self._running: object | None = None
        self.exchanges: list[Exchange] = []

    def reset(self) -> None:
        """Forget the conversation; a turn under way ends in the old one, which nobody sees any more."""
        self._chat, self._catalog, self.exchanges, self._running = None, None, [], None

    @property
    def is_answering(self) -> bool:
        """Whether a turn of this conversation is under way."""
        return self._running is not None

    def undo(self) -> str | None:
        """Take back the last message and the answer to it, and return the message; None if there is none."""
        if self._chat is None or not self.exchanges:
            return None
        self._chat.undo()
        return self.exchanges.pop().message

    async def answer(self, message: str, choices: Choices) -> AsyncGenerator[Exchange, None]:
        """Answer a message, yielding the exchange as it grows; the last one is complete.

        A turn that fails, or that is left before the item is chosen, is not among `exchanges`, nor is it
        remembered. Another catalog than in the turn before starts a new conversation.

        Raises
        ------
        ReGeSError
            Whatever the engine raises; the conversation is then as it was.
        """
        async with self._turn:
            # The memory stays, the filters are this turn's.
            engine = await asyncio.to_thread(self._shelf.engine, choices)
            if self._chat is None or self._catalog != choices.catalog:
                self.reset()
                self._chat = await asyncio.to_thread(self._shelf.chat, choices)
                self._catalog = choices.catalog
            chat, exchanges = self._chat, self.exchanges  # a reset meanwhile replaces both
            turn = self._running = object()
            chat.query_engine = engine
            exchange = Exchange(message)
            try:
                stream = await chat.astream_chat(message)
                pieces = stream.achat_stream
                assert pieces is not None
                try:
                    async for piece in pieces:
                        thought, text = _parts(piece.message)
                        found, whole = (_found(stream), stream.response) if text else (None, "")
                        exchange = Exchange(message, text, thought, found, whole)
                        yield exchange
                finally:
                    await pieces.aclose()
                    if exchange.answer:  # from its first word on, the turn is in the chat engine's memory
                        exchanges.append(exchange)
            finally:
                if self._running is turn:
                    self._running = None


def _parts(message: ChatMessage) -> tuple[str, str]:
    """Return what of a message is reasoning and what is answer."""
    thoughts = [block.content or "" for block in message.blocks if isinstance(block, ThinkingBlock)]
    return "".join(thoughts), message.content or ""


def _found(stream: StreamingAgentChatResponse) -> Recommendation | None:
    outputs = [source.raw_output for source in stream.sources]
    return next((output for output in outputs if isinstance(output, Recommendation)), None)


class Sessions:
    """All sessions by the key that the browser's page has; the one idle for longest is forgotten first."""

    def __init__(self, shelf: Shelf, capacity: int = 1000) -> None:
        self._shelf = shelf
        self._capacity = capacity
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    def of(self, key: str) -> Session:
        """Return the session of a key, a new one where there is none."""
        with self._lock:
            session = self._sessions.setdefault(key, Session(self._shelf))
            self._sessions.move_to_end(key)
            while len(self._sessions) > self._capacity:
                self._sessions.popitem(last=False)
        return session
