"""Dialogues as data: turns read from files, checked, and turned into LlamaIndex chat messages."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from reges_index.errors import InputError

__all__ = ["SPEAKERS", "Dialogue", "Message", "Turn", "read_conversation", "read_turns", "to_messages"]


SPEAKERS = (MessageRole.USER, MessageRole.ASSISTANT)
"""Roles of seeker and recommender."""

# Roles of LlamaIndex and chat APIs that are no part of a dialogue between the two.
_ASIDES = frozenset(role.value for role in MessageRole if role not in SPEAKERS)


class Message(BaseModel):
    """One message: the seeker is ``user``, the recommender ``assistant``."""

    model_config = ConfigDict(frozen=True)

    role: Literal["user", "assistant"]
    content: str


class Turn(BaseModel):
    """A recommendation turn: what was said before it, and what the recommender named next.

    Attributes
    ----------
    id
        Unique within a file.
    dialog_id
        The dialogue that the turn is from; intervals are computed over dialogues.
    messages
        Everything said before the recommendation, oldest first. Messages of the roles of chat APIs that are
        neither seeker nor recommender (``system``, ``tool``, ...) are left out, as by `to_messages`.
    targets
        Ids of the items that were recommended. Empty when unknown.
    mentioned
        Ids of items named earlier in the dialogue; None when nobody labelled them.
    """

    model_config = ConfigDict(frozen=True)

    id: str = ""
    dialog_id: str = ""
    messages: tuple[Message, ...]
    targets: tuple[str, ...] = ()
    mentioned: tuple[str, ...] | None = None

    @field_validator("messages", mode="before")
    @classmethod
    def _without_asides(cls, messages: Any) -> Any:
        if not isinstance(messages, (list, tuple)):
            return messages
        return [m for m in messages if not _is_aside(m)]

    @property
    def chat(self) -> tuple[ChatMessage, ...]:
        """The messages as LlamaIndex chat messages."""
        return tuple(ChatMessage(role=m.role, content=m.content) for m in self.messages)


Dialogue: TypeAlias = "str | Turn | Sequence[ChatMessage] | Sequence[Message] | Sequence[Mapping[str, Any]]"


def to_messages(dialogue: Dialogue) -> tuple[ChatMessage, ...]:
    """Turn any form of a dialogue into chat messages of the roles user and assistant.

    Parameters
    ----------
    dialogue
        A string (one message of the user), a `Turn`, or a sequence of chat messages or of mappings with
        ``role`` and ``content``. System and tool messages are no part of a dialogue between seeker and
        recommender and are left out.

    Raises
    ------
    InputError
        If nothing was said: no messages, or only blank ones.
    """
    if isinstance(dialogue, str):
        found: tuple[ChatMessage, ...] = (ChatMessage(role=MessageRole.USER, content=dialogue),)
    elif isinstance(dialogue, Turn):
        found = dialogue.chat
    else:
        found = tuple(_to_message(m, number) for number, m in enumerate(dialogue, 1))
    found = tuple(m for m in found if m.role in SPEAKERS)
    if not any((m.content or "").strip() for m in found):
        raise InputError(
            "the dialogue is empty: it has no message with text from the user or the assistant",
            hint='give at least one message, such as {"role": "user", "content": "a tense thriller, please"}',
        )
    return found


def _is_aside(message: Any) -> bool:
    role = message.get("role") if isinstance(message, Mapping) else None
    return isinstance(role, str) and role in _ASIDES


def _to_message(message: Any, number: int) -> ChatMessage:
    if isinstance(message, ChatMessage):
        return message
    if isinstance(message, Message):
        return ChatMessage(role=message.role, content=message.content)
    if isinstance(message, Mapping) and _is_aside(message):
        return ChatMessage(role=message["role"], content=None)  # left out by the caller
    try:
        checked = Message.model_validate(message)
    except ValidationError as error:
        raise InputError(f"message {number} of the dialogue: {_first_problem(error)}") from error
    return ChatMessage(role=checked.role, content=checked.content)


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]


def _parse_turn(text: str, where: str) -> Turn:
    try:
        raw = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not valid JSON ({error.msg} at column {error.colno})") from error
    except RecursionError as error:
        raise InputError(f"{where}: JSON nested too deeply") from error
    if not isinstance(raw, dict) or "messages" not in raw:
        raise InputError(
            f"{where}: expected a JSON object with 'messages'",
            hint='for example {"messages": [{"role": "user", "content": "..."}]}',
        )
    try:
        turn = Turn.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"{where}: {_first_problem(error)}") from error
    if not any(m.content.strip() for m in turn.messages):
        raise InputError(f"{where}: the dialogue is empty", hint="give at least one message with text")
    return turn


def _read_text(path: Path) -> str:
    try:
        return _decode(path.read_bytes(), str(path))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 (byte {error.start})", hint="convert it to UTF-8") from error


def read_conversation(path: str | Path) -> Turn:
    """Read one dialogue: a JSON object with ``messages``; ``-`` reads standard input.

    Raises
    ------
    InputError
        If the file is missing, no JSON, or holds no message with text.
    """
    if str(path) == "-":
        return _parse_turn(_decode(sys.stdin.buffer.read(), "standard input"), "standard input")
    return _parse_turn(_read_text(Path(path)), str(path))


def read_turns(path: str | Path) -> list[Turn]:
    """Read recommendation turns from JSONL, one object a line, blank lines allowed.

    Raises
    ------
    InputError
        Naming file and line: malformed JSON, a missing or repeated ``id``, an empty dialogue; or naming
        the file when it holds no turn at all.
    """
    path = Path(path)
    turns: list[Turn] = []
    lines: dict[str, int] = {}
    for number, line in _numbered_lines(_read_text(path)):
        turn = _parse_turn(line, f"{path}:{number}")
        if not turn.id:
            raise InputError(f"{path}:{number}: the turn has no 'id'")
        if turn.id in lines:
            raise InputError(f"{path}:{number}: id {turn.id!r} was used on line {lines[turn.id]} already")
        lines[turn.id] = number
        turns.append(turn)
    if not turns:
        raise InputError(f"{path}: no turn in it", hint="one JSON object with 'id' and 'messages' a line")
    return turns


def _numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    # Not splitlines(): JSON strings may hold U+2028 and the like as they are.
    numbered: Iterable[tuple[int, str]] = enumerate(text.split("\n"), 1)
    return ((number, line) for number, line in numbered if line.strip())
