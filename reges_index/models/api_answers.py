"""What a server answered, looked at where the client library hands it over.

LlamaIndex reads ``response.choices[0].message`` of whatever came, so an answer that is no chat completion and
a mistake in a program end in the same AttributeError or TypeError. Here an answer is checked before anybody
reads it: what goes wrong behind that, or before any answer, is no fault of the server.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal

from llama_index.core.base.llms.types import MessageRole
from pydantic import BaseModel, ConfigDict, Field, ValidationError

__all__ = ["Arrival", "UnfitAnswer", "UnreadableAnswer", "arrivals", "checked"]

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


class _Read(BaseModel):
    model_config = ConfigDict(from_attributes=True)


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


class _ChatChoice(_Read):
    message: _Message
    logprobs: _Logprobs | None = None


class _Chat(_Read):
    choices: list[_ChatChoice] = Field(min_length=1)


class _TextLogprobs(_Read):
    top_logprobs: list[dict[str, float]] | None = None


class _TextChoice(_Read):
    text: str
    logprobs: _TextLogprobs | None = None


class _Text(_Read):
    choices: list[_TextChoice] = Field(min_length=1)


class _Delta(_Read):
    role: MessageRole | Literal[""] | None = None
    content: str | None = None
    tool_calls: list[Any] | None = None


class _ChatPieceChoice(_Read):
    delta: _Delta | None


class _ChatPiece(_Read):
    choices: list[_ChatPieceChoice]


class _TextPieceChoice(_Read):
    text: str | None


class _TextPiece(_Read):
    choices: list[_TextPieceChoice]


# -- where they are checked --------------------------------------------------------------------------------


def checked(client: Any) -> Any:
    """Return a client of the ``openai`` package whose answers are checked; it is changed in place.

    Its ``create`` methods raise `UnreadableAnswer` for what is no completion, also in the middle of a stream,
    and tell `arrivals` of every answer. Other errors leave them as they are.

    Parameters
    ----------
    client
        ``OpenAI``, ``AsyncOpenAI`` or one made from these. Nobody else may use it.
    """
    from openai import AsyncOpenAI

    over = _over_async if isinstance(client, AsyncOpenAI) else _over
    for resource, whole, piece in (
        (client.chat.completions, _Chat, _ChatPiece),
        (client.completions, _Text, _TextPiece),
    ):
        resource.create = over(resource.create, whole, piece)
    return client


def _over(create: Callable[..., Any], whole: type[_Read], piece: type[_Read]) -> Callable[..., Any]:
    @wraps(create)
    def ask(*args: Any, **kwargs: Any) -> Any:
        with _json_only():
            reply = create(*args, **kwargs)
        if kwargs.get("stream"):
            return _pieces(reply, piece)
        return _readable(reply, whole)

    return ask


def _over_async(create: Callable[..., Any], whole: type[_Read], piece: type[_Read]) -> Callable[..., Any]:
    @wraps(create)
    async def ask(*args: Any, **kwargs: Any) -> Any:
        with _json_only():
            reply = await create(*args, **kwargs)
        if kwargs.get("stream"):
            return _async_pieces(reply, piece)
        return _readable(reply, whole)

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


async def _async_pieces(stream: Any, kind: type[_Read]) -> AsyncIterator[Any]:
    async with stream:
        pieces = aiter(stream)
        while True:
            with _json_only():
                piece = await anext(pieces, _END)
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
