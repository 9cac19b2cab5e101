"""LLMs behind APIs: copies of OpenAI's kind that ask once and check what comes, faults, counts and offers.

LlamaIndex reads ``response.choices[0].message`` of whatever came, so an answer that is no chat completion and
a mistake in a program end in the same AttributeError or TypeError. Here an answer is checked before anybody
reads it: what goes wrong behind that, or before any answer, is no fault of the server.
"""

from __future__ import annotations

import asyncio
import json
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache, wraps
from types import new_class
from typing import Any, Generic, Literal, TypeVar
from weakref import WeakKeyDictionary

from llama_index.core.base.llms.types import MessageRole
from llama_index.core.llms.llm import LLM
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reges_index.driver import Do
from reges_index.errors import LLMServerError
from reges_index.remote import (
    TRANSIENT_STATUS,
    Attempts,
    RetryPolicy,
    http_status,
    retry_after_s,
)

# Of a copy: event loop -> client.
_OPENED = "_reges_clients"
# What the client library lets through of a body that is no JSON.
_NO_JSON = (json.JSONDecodeError, UnicodeDecodeError)
# Characters shown of a text that came in place of an answer.
_SHOWN = 60
# The same of an error's.
_LONGEST = 300
_END = object()


class UnfitAnswer(Exception):
    """An answer came that is not what was asked for; its cause is what the client raised, if it did."""


class UnreadableAnswer(UnfitAnswer):
    """The server answered something that is no chat completion (HTML, other JSON, half of it)."""


@dataclass
class Arrival:
    """Whether the server has answered the request that is under way."""

    answered: bool = False


_arrival: ContextVar[Arrival | None] = ContextVar("reges_index_arrival", default=None)


@contextmanager
def arrivals(arrival: Arrival) -> Iterator[Arrival]:
    """Note in ``arrival`` what comes within the block, to this thread or task and those that it starts."""
    token = _arrival.set(arrival)
    try:
        yield arrival
    finally:
        _arrival.reset(token)


# -- the parts of an answer that LlamaIndex reads, and no others: servers leave out what they like ----------

C = TypeVar("C")


class _Read(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class _Whole(_Read, Generic[C]):
    choices: list[C] = Field(min_length=1)


class _Piece(_Read, Generic[C]):
    choices: list[C]


class _Function(_Read):
    name: str | None
    arguments: str | dict[str, Any] | None


class _ToolCall(_Read):
    id: str | None = None
    function: _Function | None


class _Message(_Read):
    role: MessageRole
    content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Token(_Read):
    token: str
    logprob: float
    bytes: list[int] | None = None


class _Place(_Read):
    top_logprobs: list[_Token] | None = None


class _Logprobs(_Read):
    content: list[_Place] | None = None


class _Chat(_Read):
    message: _Message
    logprobs: _Logprobs | None = None


class _TextLogprobs(_Read):
    top_logprobs: list[dict[str, float]] | None = None


class _Text(_Read):
    text: str
    logprobs: _TextLogprobs | None = None


class _Delta(_Read):
    role: MessageRole | Literal[""] | None = None
    content: str | None = None
    tool_calls: list[Any] | None = None


class _ChatPiece(_Read):
    delta: _Delta | None


class _TextPiece(_Read):
    text: str | None


# -- where they are checked --------------------------------------------------------------------------------


def _checked(client: Any) -> Any:
    """Let a client of the ``openai`` package, which nobody else may use, check what comes; return it.

    Its ``create`` methods raise `UnreadableAnswer` for what is no completion, also in the middle of a stream,
    and tell `arrivals` of every answer.
    """
    from openai import AsyncOpenAI

    in_loop = isinstance(client, AsyncOpenAI)
    for resource, whole, piece in (
        (client.chat.completions, _Whole[_Chat], _Piece[_ChatPiece]),
        (client.completions, _Whole[_Text], _Piece[_TextPiece]),
    ):
        create = resource.create
        resource.create = _awaited(create, whole) if in_loop else _called(create, whole, piece)
    return client


def _called(create: Callable[..., Any], whole: type[_Read], piece: type[_Read]) -> Callable[..., Any]:
    @wraps(create)
    def ask(*args: Any, **kwargs: Any) -> Any:
        with _json_only():
            reply = create(*args, **kwargs)
        return _pieces(reply, piece) if kwargs.get("stream") else _readable(reply, whole)

    return ask


def _awaited(create: Callable[..., Any], whole: type[_Read]) -> Callable[..., Any]:
    @wraps(create)
    async def ask(*args: Any, **kwargs: Any) -> Any:
        with _json_only():
            reply = await create(*args, **kwargs)
        return _readable(reply, whole)  # nobody here streams in an event loop

    return ask


def _pieces(stream: Any, kind: type[_Read]) -> Iterator[Any]:
    with stream:
        pieces = iter(stream)
        while True:
            with _json_only():
                piece = next(pieces, _END)
            if piece is _END:
                return
            if not _is_empty(piece):
                yield _readable(piece, kind)


def _is_empty(piece: Any) -> bool:
    """Say whether a piece of a stream holds nothing to read, as the last one of some servers."""
    told = getattr(piece, "choices", _END) is None and "choices" in getattr(piece, "model_fields_set", ())
    return told and not getattr(piece, "error", None)


@contextmanager
def _json_only() -> Iterator[None]:
    """Tell a body that is no JSON from everything else that a client raises."""
    try:
        yield
    except _NO_JSON as error:
        _note()
        raise UnreadableAnswer(f"the answer is no JSON: {error}") from error


def _readable(reply: Any, kind: type[_Read]) -> Any:
    _note()
    try:
        kind.model_validate(reply)
    except ValidationError as error:
        if told := getattr(reply, "error", None):  # some servers say so with HTTP 200
            said = told.get("message", told) if isinstance(told, dict) else told
            raise UnreadableAnswer(f"the answer is an error: {str(said)[:_LONGEST]}") from None
        if isinstance(reply, str):
            raise UnreadableAnswer(f"the answer is a text: {reply[:_SHOWN]!r}") from None
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise UnreadableAnswer(f"the answer is no completion: {where}: {first['msg']}") from None
    return reply


def _note() -> None:
    arrival = _arrival.get()
    if arrival is not None:
        arrival.answered = True


# -- the copy ------------------------------------------------------------------------------------------------


def is_openai_kind(llm: LLM) -> bool:
    """Say whether an LLM is LlamaIndex's OpenAI class or made from it (OpenAILike, Azure and others)."""
    # Asked by name, so that llama-index-llms-openai need not be installed.
    return any(
        kind.__name__ == "OpenAI" and kind.__module__.startswith("llama_index.llms.openai")
        for kind in type(llm).__mro__
    )


def single_attempt(llm: LLM, *, plain: bool = False, **fields: Any) -> LLM:
    """Return a copy of an LLM of OpenAI's kind that sends each request once; other LLMs as they are.

    Its own retries are two loops in one another (the client's and LlamaIndex's), which would multiply
    with ours and which nobody counts. Answers are checked as they come, see `_checked`.

    Parameters
    ----------
    plain
        Leave out the temperature, and call ``max_tokens`` ``max_completion_tokens``, as some models want it.
    **fields
        Fields to change in the copy.
    """
    if not is_openai_kind(llm):
        return llm
    copy = llm.model_copy(update={"max_retries": 0, **fields})
    copy.__class__ = _asking_once(type(llm), plain)
    return copy


@cache
def _asking_once(kind: type[Any], plain: bool) -> type[Any]:
    """Return the same class with clients that retry nothing and check what comes."""

    # Copies of the clients: they may be the user's own, made with his number of retries. A copy shares the
    # connections.
    def _get_client(llm: Any) -> Any:
        return _checked(kind._get_client(llm).with_options(max_retries=0))

    def _get_aclient(llm: Any) -> Any:
        # Connections belong to the event loop that opened them: in another one, such as that of a second
        # asyncio.run, they are dead. A client that the user has given is his to look after.
        opened = llm.__dict__.setdefault(_OPENED, WeakKeyDictionary())
        loop = asyncio.get_running_loop()
        if loop not in opened:
            client = kind._get_aclient(llm)
            if opened and llm._async_http_client is None:
                from openai import DefaultAsyncHttpxClient

                fresh = DefaultAsyncHttpxClient(base_url=client.base_url, timeout=client.timeout)
                client = client.with_options(http_client=fresh)
            opened[loop] = client
        return _checked(opened[loop].with_options(max_retries=0))

    def _get_model_kwargs(llm: Any, **kwargs: Any) -> dict[str, Any]:
        settings: dict[str, Any] = kind._get_model_kwargs(llm, **kwargs)
        if plain:
            settings.pop("temperature", None)
            if "max_tokens" in settings:
                settings["max_completion_tokens"] = settings.pop("max_tokens")
        return settings

    def fill(body: dict[str, Any]) -> None:
        body |= {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
        body |= {"_get_client": _get_client, "_get_aclient": _get_aclient}
        body |= {"_get_model_kwargs": _get_model_kwargs}

    return new_class(kind.__name__, (kind,), exec_body=fill)


# -- what the faults of a server mean ------------------------------------------------------------------------

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
