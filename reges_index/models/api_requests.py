"""The server behind an LLM: what its faults mean, counting what it is asked, and what it does not offer."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from llama_index.core.llms.llm import LLM
from pydantic import ValidationError

from reges_index.driver import Do
from reges_index.errors import LLMServerError
from reges_index.models.api_clients import (
    Arrival,
    UnreadableAnswer,
    arrivals,
    is_openai_kind,
)
from reges_index.remote import (
    TRANSIENT_STATUS,
    Attempts,
    RetryPolicy,
    http_status,
    retry_after_s,
)

# What a program raises that is wrong itself. Of LLMs of OpenAI's kind no server can cause it: answers are
# checked before they are read.
_MISTAKES = (AttributeError, TypeError, LookupError, NameError, AssertionError, ValidationError)
_TEMPLATE_HINT = (
    "a model without chat template needs OpenAILike(is_chat_model=False), which sends plain text to "
    "/completions"
)


def is_refused(error: BaseException) -> bool:
    """Say whether the server refused this very request (HTTP 4xx), while another one may fare better.

    Not so for a wrong key (401), an unknown model or address (404), and what may pass (429). With 403
    OpenAI refuses logprobs of its reasoning models, so that counts.
    """
    status = error.status if isinstance(error, LLMServerError) else http_status(error)
    return status is not None and 400 <= status < 500 and status not in {401, 404, *TRANSIENT_STATUS}


def is_unreadable(error: BaseException) -> bool:
    """Say whether the server answered something that is no chat completion (HTML, other JSON, half of it)."""
    status = http_status(error)
    return (status is not None and status < 400) or isinstance(error, UnreadableAnswer)


def is_mistake(error: BaseException) -> bool:
    """Say whether an error is by its class a program's: a wrong argument, an attribute that is not there.

    Asking again does not help, and hiding it behind an answer got in another way would not either.
    """
    return isinstance(error, _MISTAKES)


def hint_of(error: Exception, name: str, where: str, longest_wait_s: float) -> str:
    """Return what a user can do about a server's error; longer waits than that are not obeyed."""
    status = http_status(error)
    if status in (401, 403):
        return "check the key: api_key= of the LLM, or OPENAI_API_KEY in the environment"
    if status == 404:
        return f"does the server know a model {name!r}? its address usually ends in /v1: {where}"
    if status == 429:
        asked = retry_after_s(error)
        if asked is not None and asked > longest_wait_s:
            return (
                f"the server asks to wait {asked:.0f} s, and {longest_wait_s:.0f} s is the longest wait: "
                "ask again then, or send less at once"
            )
        return "send less at once, or raise max_retries= of the LLM"
    if status is not None and status >= 500:
        return f"look into the server's log; {_TEMPLATE_HINT}"
    if is_refused(error):
        return (
            "the server's own words are above: too long a prompt is shortened by max_input_tokens=, a "
            f"setting that the server does not know is one of the LLM's; {_TEMPLATE_HINT}"
        )
    if is_unreadable(error):
        return f"does {where} speak OpenAI's protocol? the address usually ends in /v1"
    if any("timeout" in type(seen).__name__.lower() for seen in (error, error.__cause__)):
        return "raise timeout= of the LLM (seconds), or ask a faster server"
    return f"is the server running, and reachable at {where}?"


# -- counting ------------------------------------------------------------------------------------------------


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


def counted(ask: Do, arrival: Arrival, attempts: Attempts) -> Do:
    """Return the same step, which counts the request and notes whether an answer has come."""

    def begin() -> None:
        if (tally := _tally.get()) is not None:
            tally.note(retry=attempts.made > 1)
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


# -- what a server does not offer ----------------------------------------------------------------------------

# So often in a row a way of asking has to fail, while another one works, before it is not tried any more.
# Once is no sign: too long a prompt and a content filter are refused with the same HTTP statuses as a
# parameter that the server does not know.
_ENOUGH = 2


class Offers:
    """Which ways of asking one LLM have failed, and which of them are not tried any more."""

    def __init__(self) -> None:
        self.begins_in_thoughts = True
        """Whether its answers may begin with thoughts that no mark opens; true until one was read."""
        self._failed: dict[str, int] = {}
        self._lock = threading.Lock()

    def has(self, way: str) -> bool:
        """Say whether a way of asking is still worth a request."""
        return self._failed.get(way, 0) < _ENOUGH

    def failed(self, way: str, *, lasting: bool = False) -> None:
        """Note that a way failed where another one then worked; a lasting failure is enough by itself."""
        with self._lock:
            self._failed[way] = _ENOUGH if lasting else self._failed.get(way, 0) + 1

    def worked(self, way: str) -> None:
        """Note that a way has worked: earlier failures were about their prompts."""
        with self._lock:
            self._failed.pop(way, None)


_known: dict[int, Offers] = {}
_lock = threading.Lock()


def offers_of(llm: Any) -> Offers:
    """Return what is remembered of an LLM; the same for all components that hold this object."""
    key = id(llm)
    with _lock:
        if key not in _known:
            # LLMs are pydantic models, which have no hash, so no dictionary of weak keys can hold them.
            weakref.finalize(llm, _known.pop, key, None)
            _known[key] = Offers()
        return _known[key]
