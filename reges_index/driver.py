"""Write once what runs both in plain code and in an event loop.

A piece of work is a generator: it yields what to do next (`Do`), gets back what came of it, and returns its
result. `run` does the steps one after the other; `arun` awaits them. Errors are raised where the work stands,
so that ``try`` and ``with`` mean in it what they always mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

__all__ = ["Do", "Work", "arun", "off_loop", "run"]

T = TypeVar("T")


@dataclass(frozen=True)
class Do:
    """One step: how it is done in plain code, and how without blocking an event loop."""

    now: Callable[[], Any]
    later: Callable[[], Awaitable[Any]]


Work: TypeAlias = Generator[Do, Any, T]
"""Yields steps, is sent what came of each, and returns a T."""


def off_loop(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Do:
    """Return the step that calls a function; in an event loop it is called in a thread."""
    call = partial(function, *args, **kwargs)
    return Do(call, partial(asyncio.to_thread, call))


def run(work: Work[T]) -> T:
    """Do a piece of work and return its result."""
    try:
        step = next(work)
        while True:
            try:
                came = step.now()
            except BaseException as error:
                step = work.throw(error)
            else:
                step = work.send(came)
    except StopIteration as ended:
        result: T = ended.value
        return result
    finally:
        work.close()


async def arun(work: Work[T]) -> T:
    """Do a piece of work without blocking the event loop, and return its result."""
    try:
        step = next(work)
        while True:
            try:
                came = await step.later()
            except BaseException as error:
                step = work.throw(error)
            else:
                step = work.send(came)
    except StopIteration as ended:
        result: T = ended.value
        return result
    finally:
        work.close()
