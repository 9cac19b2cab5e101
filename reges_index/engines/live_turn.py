"""A chat turn that runs while what its item expert reasons is read.

A reader who leaves before the item is chosen ends the turn at the next token; nothing of it is remembered.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable
from contextvars import copy_context

from reges_index.engines.chat_reply import Reply
from reges_index.item_expert.reasoning import ReasoningStopped, hear_reasoning

__all__ = ["AsyncLiveTurn", "LiveTurn"]


class LiveTurn:
    """A turn in a thread of its own.

    The queue between has no bound: a slow reader, or one who never begins, holds up no other turn.

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
