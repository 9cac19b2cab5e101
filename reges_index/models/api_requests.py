"""Asking the server behind an LLM: bounded, counted retries with back-off, then an `LLMServerError`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from llama_index.core.llms.llm import LLM

from reges_index.driver import Do, Work, off_loop, run
from reges_index.errors import LLMServerError
from reges_index.models.api_answers import Arrival, UnfitAnswer, arrivals
from reges_index.models.api_clients import is_openai_kind
from reges_index.models.api_faults import explained, is_mistake, is_unreadable
from reges_index.remote.faults import http_status, is_transient, safe_cause, server_address
from reges_index.remote.retries import RetryPolicy

__all__ = ["Requests", "Tally", "policy_of", "tallied"]

T = TypeVar("T")

# What reading a model's text raises where that is not what was asked for.
_UNFIT = (ValueError, LookupError, AssertionError)
# The same of classes that are not of OpenAI's kind, whose answers nobody has checked.
_UNFIT_OR_UNREADABLE = (*_UNFIT, TypeError, AttributeError)


def policy_of(llm: LLM) -> RetryPolicy:
    """Return the policy that an LLM's own settings ask for.

    OpenAI's kind (`is_openai_kind`): its ``max_retries``. Others that have such a setting retry by
    themselves, uncounted, and are not asked again from here; those without it get three retries.
    """
    own = getattr(llm, "max_retries", None)
    if not isinstance(own, int):
        return RetryPolicy()
    return RetryPolicy(max_retries=own if is_openai_kind(llm) else 0)


@dataclass
class Tally:
    """What was sent to servers.

    Attributes
    ----------
    requests
        All of them, retries included.
    retries
        Those that repeated one that had failed.
    """

    requests: int = 0
    retries: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def note(self, *, retry: bool) -> None:
        """Count one request."""
        with self._lock:
            self.requests += 1
            self.retries += retry


_tally: ContextVar[Tally | None] = ContextVar("reges_index_tally", default=None)


@contextmanager
def tallied() -> Iterator[Tally]:
    """Count the requests sent within the block, by this thread or task and those that it starts."""
    tally = Tally()
    token = _tally.set(tally)
    try:
        yield tally
    finally:
        _tally.reset(token)


class Requests:
    """Sends the requests to one LLM.

    Parameters
    ----------
    llm
        As the user gave it.
    policy
        By default what the LLM's own settings say.
    """

    def __init__(self, llm: LLM, policy: RetryPolicy | None = None) -> None:
        self._llm = llm
        self._policy = policy or policy_of(llm)
        self._openai_kind = is_openai_kind(llm)

    def plan(self, ask: Do, *, parses: bool = False) -> Work[Any]:
        """Ask, and again where that may help; return what came.

        Parameters
        ----------
        ask
            Sends one request and returns what came.
        parses
            Whether ``ask`` also reads what the *model* wrote, so that a ValueError and the like may be about
            that.

        Raises
        ------
        LLMServerError
            If no usable answer came.
        UnfitAnswer
            With ``parses``, if what came is not what was asked for.
        Exception
            Errors of other kinds as they are: those of an LLM class of your own, and those of the program
            (`is_mistake`), at once.
        """
        arrival = Arrival()
        attempt = 0
        while True:
            attempt += 1
            try:
                return (yield _counted(ask, arrival, retry=attempt > 1))
            except Exception as error:  # whatever a client raises; what it means is found out below
                wait = self._policy.wait_s(error, attempt) if self._may_pass(error, parses) else None
                if wait is None:
                    failure = self._failure(error, arrival, attempt, parses)
                    if failure is None:
                        raise
                    break
                self._policy.note(error, attempt, server_address(self._llm))
            yield Do(partial(time.sleep, wait), partial(asyncio.sleep, wait))
        raise failure  # outside of the except block, or the error that may hold the key would be its context

    def send(self, ask: Callable[[], T], *, parses: bool = False) -> T:
        """Do `plan` in this thread."""
        result: T = run(self.plan(off_loop(ask), parses=parses))
        return result

    def _failure(self, error: Exception, arrival: Arrival, attempts: int, parses: bool) -> Exception | None:
        told = self.explain(error, attempts=attempts, parses=parses)
        if told is None and parses and self._is_unfit(error, arrival):
            unfit = UnfitAnswer(type(error).__name__)
            unfit.__cause__ = safe_cause(error, self._llm)
            return unfit
        return told

    def _is_unfit(self, error: Exception, arrival: Arrival) -> bool:
        if isinstance(error, UnfitAnswer):
            return True
        if not self._openai_kind:
            return isinstance(error, _UNFIT_OR_UNREADABLE)
        return arrival.answered and isinstance(error, _UNFIT)

    def is_mistake(self, error: Exception) -> bool:
        """Say whether an error is surely one of the program: of OpenAI's kind, and no server's doing."""
        return self._openai_kind and is_mistake(error)

    def explain(self, error: Exception, *, attempts: int = 1, parses: bool = False) -> LLMServerError | None:
        """Return what a client's error says of the server, without the key; None if it is about neither.

        Parameters
        ----------
        attempts, parses
            As in `send`.
        """
        if isinstance(error, LLMServerError):
            return error
        if not (self._may_pass(error, parses) or http_status(error) is not None):
            return None
        told = explained(error, self._llm, attempts, self._policy.longest_wait_s)
        told.__cause__ = safe_cause(error, self._llm)
        return told

    def _may_pass(self, error: BaseException, parses: bool) -> bool:
        if is_transient(error):
            return True
        return self._openai_kind and not parses and is_unreadable(error)


def _counted(ask: Do, arrival: Arrival, *, retry: bool) -> Do:
    """Return the same step, which counts the request and notes whether an answer has come."""

    def begin() -> None:
        if (tally := _tally.get()) is not None:
            tally.note(retry=retry)
        arrival.answered = False

    def now() -> Any:
        begin()
        with arrivals(arrival):
            return ask.now()

    async def later() -> Any:
        begin()
        with arrivals(arrival):
            return await ask.later()

    return Do(now, later)
