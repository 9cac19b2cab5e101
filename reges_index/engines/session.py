"""The memory of one conversation, and what was recommended in it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.memory import BaseMemory, Memory

from reges_index.engines.chat_reply import Reply

__all__ = ["OpenTurn", "Session", "endless_memory"]

# Long enough that the memory never drops a message: the experts cut the dialogue themselves, and say so.
_MEMORY_TOKENS = 10**9


@dataclass(frozen=True)
class OpenTurn:
    """A turn that is being answered: what the user said, and the state of the session when it began.

    Attributes
    ----------
    history
        What the caller gave in the memory's place; None is the memory.
    barred
        Items that were recommended before and must not be again.
    resets
        How often the session had been reset.
    """

    user: ChatMessage
    history: list[ChatMessage] | None
    barred: list[str]
    resets: int


class Session:
    """What turns read when they begin and write when they end; one turn at a time.

    A reset may come at any time. A turn that began before it is not remembered, since what it answers belongs
    to the conversation that was to be forgotten.

    Parameters
    ----------
    memory
        Any LlamaIndex memory.
    exclude_recommended
        Do not recommend the same item twice.
    """

    def __init__(self, memory: BaseMemory, *, exclude_recommended: bool) -> None:
        self.memory = memory
        self._exclude_recommended = exclude_recommended
        self._recommended: list[str] = []
        self._resets = 0
        self._writing = threading.Lock()

    def reset(self) -> None:
        """Forget everything, without waiting for a turn under way."""
        with self._writing:
            self._resets += 1
            self.memory.reset()
            self._recommended = []

    def begin(self, user: ChatMessage, history: list[ChatMessage] | None) -> OpenTurn:
        """Open a turn."""
        # With a history of the caller's this is another conversation, of which we have recommended nothing.
        ours = self._exclude_recommended and history is None
        return OpenTurn(user, history, list(self._recommended) if ours else [], self._resets)

    def dialogue(self, turn: OpenTurn) -> Sequence[ChatMessage]:
        """Return all that was said, the turn's message last."""
        before = self.memory.get_all() if turn.history is None else turn.history
        return [*before, turn.user]

    async def adialogue(self, turn: OpenTurn) -> Sequence[ChatMessage]:
        """Return all that was said, the turn's message last."""
        before = await self.memory.aget_all() if turn.history is None else turn.history
        return [*before, turn.user]

    def remember(self, turn: OpenTurn, reply: Reply) -> None:
        """Write a turn that has ended, unless there was a reset meanwhile."""
        with self._writing:
            if turn.resets != self._resets:
                return
            if turn.history is not None:
                self.memory.set(turn.history)
            self.memory.put(turn.user)
            self.memory.put(_spoken(reply))
            self._note(turn, reply)

    async def aremember(self, turn: OpenTurn, reply: Reply) -> None:
        """Do `remember`, the whole of it even if the caller is cancelled: half a turn is no use."""
        await _whole(self._awrite(turn, reply))

    async def _awrite(self, turn: OpenTurn, reply: Reply) -> None:
        # No lock, which would be held while other tasks run. What a reset in between has missed goes after.
        if turn.resets != self._resets:
            return
        if turn.history is not None:
            await self.memory.aset(turn.history)
        await self.memory.aput(turn.user)
        await self.memory.aput(_spoken(reply))
        self._note(turn, reply)
        if turn.resets != self._resets:
            await self.memory.areset()
            self._recommended = []

    def _note(self, turn: OpenTurn, reply: Reply) -> None:
        picked = [reply.found.item.id] if reply.found and reply.found.item else []
        self._recommended = [*turn.barred, *picked]


def endless_memory() -> Memory:
    """Return a memory that keeps every message."""
    # Nothing is ever dropped, so nothing need be counted; a message of a megabyte takes seconds to tokenize.
    return Memory.from_defaults(token_limit=_MEMORY_TOKENS, tokenizer_fn=lambda _: [])


def _spoken(reply: Reply) -> ChatMessage:
    return ChatMessage(role=MessageRole.ASSISTANT, content=reply.text)


async def _whole(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
