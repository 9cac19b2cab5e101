"""Write once what runs both in plain code and in an event loop.

A piece of work is a generator: it yields what to do next (`Do`), gets back what came of it, and returns its
result. `run` does the steps one after the other; `arun` awaits them. Errors are raised where the work stands,
so that ``try`` and ``with`` mean in it what they always mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import getattr_static
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.schema import NodeWithScore, QueryBundle

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


def off_loop_retrieval(retriever: BaseRetriever, bundle: QueryBundle) -> Do:
    """Return the step that retrieves; see `retrieve_off_loop`."""
    return Do(partial(retriever.retrieve, bundle), partial(retrieve_off_loop, retriever, bundle))


async def retrieve_off_loop(retriever: BaseRetriever, bundle: QueryBundle) -> list[NodeWithScore]:
    """Retrieve; in a thread where the retriever's own asynchronous path would do the work on the loop.

    It would where LlamaIndex's default stands in for a path of its own: in a retriever without
    ``_aretrieve``, and in a vector store without ``aquery``, such as Chroma's.
    """
    if _works_on_the_loop(retriever):
        return await asyncio.to_thread(retriever.retrieve, bundle)
    return await retriever.aretrieve(bundle)


def _works_on_the_loop(retriever: BaseRetriever) -> bool:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.indices.vector_store.retrievers import VectorIndexRetriever
    from llama_index.core.vector_stores.types import BasePydanticVectorStore, VectorStore

    # Compared statically: LlamaIndex's span decorator makes a new object of a method at each access.
    if getattr_static(type(retriever), "_aretrieve") is getattr_static(BaseRetriever, "_aretrieve"):
        return True
    if not isinstance(retriever, VectorIndexRetriever):
        return False
    aquery = getattr_static(type(retriever._vector_store), "aquery", None)
    defaults = [getattr_static(kind, "aquery") for kind in (BasePydanticVectorStore, VectorStore)]
    return any(aquery is default for default in defaults)


def run(work: Work[T]) -> T:
    """Do a piece of work and return its result."""
    try:
        step = next(work)
        while True:
            came, problem = None, None
            try:
                came = step.now()
            except BaseException as error:
                problem = error
            # Outside of the except block, or else what the work raises in its place, such as an error without
            # the key, would carry it along as its context.
            step = work.send(came) if problem is None else work.throw(problem)
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
            came, problem = None, None
            try:
                came = await step.later()
            except BaseException as error:
                problem = error
            step = work.send(came) if problem is None else work.throw(problem)  # as in run
    except StopIteration as ended:
        result: T = ended.value
        return result
    finally:
        work.close()


def together(begin: Sequence[Callable[[], Work[T]]]) -> Work[list[T]]:
    """Do several pieces of work as one: in an event loop at the same time, else one after the other.

    Parameters
    ----------
    begin
        Each begins one. Of several that fail the first one's error is raised, and those that are still under
        way are cancelled.
    """

    async def at_once() -> list[T]:
        tasks = [asyncio.ensure_future(arun(work())) for work in begin]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:  # gather leaves the others under way when one of them fails
                task.cancel()

    results: list[T] = yield Do(lambda: [run(work()) for work in begin], at_once)
    return results
