"""Generators that end what they read from when they are closed before their first piece, too.

The ``finally`` of a generator that was never begun does not run: a reader who leaves at once would leave
behind what the generator was to end.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from types import TracebackType
from typing import TypeVar

__all__ = ["AClosing", "Closing"]

T = TypeVar("T")


class Closing(Generator[T, None, None]):
    """A generator's pieces.

    Parameters
    ----------
    pieces
        The generator; what it reads from it ends by itself once it has begun.
    end
        Called when this is closed, after the generator.
    """

    def __init__(self, pieces: Generator[T, None, None], end: Callable[[], None]) -> None:
        self._pieces = pieces
        self._end = end

    def send(self, value: None) -> T:
        """Return the next piece."""
        return self._pieces.send(value)

    def throw(
        self,
        typ: type[BaseException] | BaseException,
        _val: BaseException | object = None,
        _tb: TracebackType | None = None,
        /,
    ) -> T:
        """Raise an exception where the generator stands."""
        return self._pieces.throw(typ if isinstance(typ, BaseException) else typ())

    def close(self) -> None:
        """Close the generator and end what it reads from."""
        try:
            self._pieces.close()
        finally:
            self._end()


class AClosing(AsyncGenerator[T, None]):
    """`Closing` for an asynchronous generator."""

    def __init__(self, pieces: AsyncGenerator[T, None], end: Callable[[], Awaitable[None]]) -> None:
        self._pieces = pieces
        self._end = end

    async def asend(self, value: None) -> T:
        """Return the next piece."""
        return await self._pieces.asend(value)

    async def athrow(
        self,
        typ: type[BaseException] | BaseException,
        _val: BaseException | object = None,
        _tb: TracebackType | None = None,
        /,
    ) -> T:
        """Raise an exception where the generator stands."""
        return await self._pieces.athrow(typ if isinstance(typ, BaseException) else typ())

    async def aclose(self) -> None:
        """Close the generator and end what it reads from."""
        try:
            await self._pieces.aclose()
        finally:
            await self._end()
