"""Dialogues as data: turns read from files, checked, and turned into LlamaIndex chat messages."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, field_validator, model_validator

from reges_index.errors import InputError
from reges_index.files import decoded, hash_of, json_lines, parse_json, read_text

SPEAKERS = (MessageRole.USER, MessageRole.ASSISTANT)
"""Roles of seeker and recommender."""

# What chat logs, APIs and corpora call the two sides.
_SIDES: dict[str, Literal["user", "assistant"]] = {
    **dict.fromkeys(
        (
            *("user", "human", "seeker", "customer", "client", "shopper", "buyer", "visitor", "guest"),
            *("initiator", "usr", "prompter", "caller", "member", "enduser", "me", "person", "student"),
            *("questioner", "asker", "inquirer", "humanmessage", "humanmessagechunk", "reader", "viewer"),
        ),
        "user",
    ),
    **dict.fromkeys(
        (
            *("assistant", "model", "chatbot", "ai", "bot", "recommender", "agent", "gpt", "llm", "wizard"),
            *("respondent", "advisor", "expert", "seller", "salesperson", "operator", "support", "chatgpt"),
            *("aiassistant", "virtualassistant", "claude", "gemini", "consultant", "librarian", "aimessage"),
            *("aimessagechunk", "recommendationsystem", "recsys", "crs"),
        ),
        "assistant",
    ),
}
# What else chat APIs put between the two: no part of the dialogue, left out and counted.
_ASIDES = frozenset(
    {"system", "developer", "tool", "function", "ipython", "context", "observation"}
    | {"systemmessage", "toolmessage", "functionmessage"}
)
_IN_NAMES = str.maketrans("", "", "-_ ")
# Keys under which messages hold their speaker and their text, the usual ones first.
_SPEAKER_KEYS = ("role", "from", "speaker", "author", "sender")
_ROLE_KEYS = (*_SPEAKER_KEYS, "type", "event")
_TEXT_PARTS = ("text", "input_text", "output_text", "multimodal_text", "markdown")
# What else chat APIs send as parts of a message.
_OTHER_PARTS = ("image", "image_url", "input_image", "audio", "input_audio", "video", "file", "input_file")
_TEXT_KEYS = ("content", "blocks", "parts", "value", "text", "message", "utterance")
# Keys under which whole dialogues hold their messages.
_MESSAGES_KEYS = (
    *("messages", "conversations", "contents", "conversation", "dialogue", "dialog", "chat_history"),
    *("history", "turns", "input", "events"),
)
_SAID_BY = re.compile(r"\s*[*_]*([A-Za-z][A-Za-z _-]{1,24}?)[*_]*\s*:[*_]*\s*(.*)", re.DOTALL)


def as_id(value: Any) -> Any:
    """Return an id as text: integers as their digits, without blanks around it; other kinds stay.

    The one rule for ids in catalogs, turns and predictions. Booleans and fractions are no ids, so that a
    validator behind this refuses them.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    return value.strip() if isinstance(value, str) else value


Id: TypeAlias = Annotated[str, BeforeValidator(as_id)]


class Message(BaseModel):
    """One message: the seeker is ``user``, the recommender ``assistant``.

    Read from what chat APIs, logs and corpora write: other names of the two roles ("human", "model", "bot",
    "seeker", ...), ``from`` and ``value``, content that is null or a list of parts, LlamaIndex's ``blocks``.
    """

    model_config = ConfigDict(frozen=True)

    role: Literal["user", "assistant"]
    content: str

    @model_validator(mode="before")
    @classmethod
    def _from_any_log(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        raw = _unpacked(raw)
        role, text = _first_of(raw, _ROLE_KEYS), _first_of(raw, _TEXT_KEYS)
        found: dict[str, Any] = {}
        if role is not None:
            side = _SIDES.get(_folded_role(raw[role]))
            if side is None:
                raise ValueError(
                    f"{role} {str(raw[role])!r} is neither side of the dialogue: the seeker is 'user', the "
                    f"recommender 'assistant' (also read: {', '.join(sorted(_SIDES))})"
                )
            found["role"] = side
        if text is not None:
            found["content"] = said = _text_of(raw[text])
            for part in said if isinstance(said, list | tuple) else ():
                if not isinstance(part, str) and not isinstance(_text_of(part), str):
                    raise ValueError(f"a part of {text} is of type {type(part).__name__}, not a text")
        return found


def _unpacked(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a message as LangChain dumps it (``data`` or ``kwargs`` inside) like any other."""
    inner = next((raw[key] for key in ("data", "kwargs") if isinstance(raw.get(key), Mapping)), None)
    if inner is None or _first_of(raw, _TEXT_KEYS) is not None or "role" in raw:
        return raw
    kind = raw["type"] if raw.get("type") not in (None, "constructor") else inner.get("type")
    if kind is None and isinstance(raw.get("id"), list) and raw["id"]:
        kind = raw["id"][-1]
    return {**inner, "type": kind}


def _first_of(raw: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """Return the first of the keys that holds something, or else the first that is there."""
    there = [key for key in keys if key in raw]
    return next((key for key in there if raw[key]), there[0] if there else None)


def _folded_role(role: Any) -> str:
    role = getattr(role, "value", role)
    if isinstance(role, Mapping):  # ChatGPT's exports: {"author": {"role": "user"}}
        role = role.get("role") or role.get("name")
    return role.strip().casefold().translate(_IN_NAMES) if isinstance(role, str) else ""


def _text_of(content: Any) -> Any:
    """Return the text of a message's content: of a list the parts that are text; null says nothing."""
    if content is None:
        return ""
    if hasattr(content, "block_type"):
        content = content.model_dump()
    if isinstance(content, Mapping):
        if _kind_of(content) not in _TEXT_PARTS:
            return ""
        return _text_of(content[key]) if (key := _first_of(content, ("text", "content", "parts"))) else ""
    if isinstance(content, list | tuple):
        texts = [part if isinstance(part, str) else _text_of(part) for part in content]
        if all(isinstance(text, str) for text in texts):
            return "\n".join(text for text in texts if text.strip())
    return content


def _is_aside(message: Any) -> bool:
    """Return whether a message is no part of the dialogue: another role's, or a call of a tool."""
    if isinstance(message, ChatMessage):
        return _folded_role(message.role) in _ASIDES
    if not isinstance(message, Mapping):
        return False
    message = _unpacked(message)
    role, text = _first_of(message, _ROLE_KEYS), _first_of(message, _TEXT_KEYS)
    if role is not None and _folded_role(message[role]) in _ASIDES:
        return True
    if str(message.get("type", "")).startswith(("function_call", "reasoning")):  # of OpenAI's Responses API
        return True
    return text is not None and role is not None and _text_of(message[text]) == "" and message[text] != ""


class Turn(BaseModel):
    """A recommendation turn: what was said before it, and what the recommender named next.

    Attributes
    ----------
    id
        Unique within a file.
    dialog_id
        The dialogue that the turn is from; intervals are computed over dialogues.
    messages
        Everything said before the recommendation, oldest first. Messages of roles that are neither seeker nor
        recommender (``system``, ``tool``, ...) and calls of tools are left out, as by `to_messages`.
    targets
        Ids of the items that were recommended. Empty when unknown.
    mentioned
        Ids of items named earlier in the dialogue; None when nobody labelled them.
    """

    model_config = ConfigDict(frozen=True)

    id: Id = ""
    dialog_id: Id = ""
    messages: tuple[Message, ...]
    targets: tuple[Id, ...] = ()
    mentioned: tuple[Id, ...] | None = None

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


def turn_hash(turn: Turn, labels: Iterable[str] | None) -> str:
    """Return a hash of messages and of labels in any order, by which a resumed run knows a turn."""
    said = [[message.role, message.content] for message in turn.messages]
    return hash_of([said, sorted(labels) if labels is not None else None], digits=16)


Dialogue: TypeAlias = (
    "str | Turn | ChatMessage | Mapping[str, Any] | Sequence[ChatMessage] | Sequence[Message] | "
    "Sequence[Mapping[str, Any]]"
)


def to_messages(dialogue: Dialogue) -> tuple[ChatMessage, ...]:
    """Turn any form of a dialogue into chat messages of the roles user and assistant.

    Parameters
    ----------
    dialogue
        A string (one message of the user), the parts of one (``[{"type": "text", "text": "..."}]``, or
        LlamaIndex's blocks), a `Turn`, or chat messages or mappings as chat APIs and logs write them
        (`Message`), one or a sequence. Of parts the text is read. Messages of systems and tools are no part
        of a dialogue between seeker and recommender and are left out (`count_asides` says how many).

    Raises
    ------
    InputError
        If a role is unknown, a message cannot be read, or nothing was said: no messages, or only blank ones.
    """
    found = said_in(dialogue)
    if not any((m.content or "").strip() for m in found):
        kinds = {kind: None for message in _listed(dialogue) for kind in _unread(message)}
        what = f", and parts of kind {', '.join(kinds)} are not read" if kinds else ""
        raise InputError(
            f"the dialogue is empty: it has no message with text from the user or the assistant{what}",
            hint='give at least one message, such as {"role": "user", "content": "a tense thriller, please"}',
        )
    return found


def said_in(dialogue: Dialogue) -> tuple[ChatMessage, ...]:
    """Do `to_messages`, also where nothing was said."""
    if isinstance(dialogue, str):
        return (ChatMessage(role=MessageRole.USER, content=dialogue),)
    if isinstance(dialogue, Turn):
        return dialogue.chat
    listed = _listed(dialogue)
    return tuple(_to_message(m, number) for number, m in enumerate(listed, 1) if not _is_aside(m))


def count_asides(dialogue: Dialogue) -> int:
    """Return how many messages of a dialogue `to_messages` leaves out: of systems and tools."""
    return 0 if isinstance(dialogue, str | Turn) else sum(map(_is_aside, _listed(dialogue)))


def _listed(dialogue: Any) -> Sequence[Any]:
    """Return the messages of what is no `Turn`; the parts of one message are a message of the user."""
    if isinstance(dialogue, str | Mapping | BaseModel):
        dialogue = [dialogue]
    if not isinstance(dialogue, Iterable):
        raise InputError(
            f"the dialogue is of type {type(dialogue).__name__}",
            hint="give a text, a Turn, or a list of messages with role and content",
        )
    if not isinstance(dialogue, Sequence):
        dialogue = list(dialogue)
    if dialogue and all(_is_part(part) for part in dialogue):
        return [{"role": "user", "content": dialogue}]
    return cast("Sequence[Any]", dialogue)


def _is_part(value: Any) -> bool:
    if isinstance(value, Mapping):
        is_part = value.get("type") in (*_TEXT_PARTS, *_OTHER_PARTS)
        return is_part and not set(value) & {*_SPEAKER_KEYS, "content", "data", "kwargs"}
    return hasattr(value, "block_type")


def _unread(message: Any) -> list[str]:
    """Return the kinds of the parts of a message that are no text, such as "image_url"."""
    if isinstance(message, ChatMessage):
        parts: Any = message.blocks
    else:
        key = _first_of(message, _TEXT_KEYS) if isinstance(message, Mapping) else None
        parts = message[key] if key is not None else ()
    kinds = [_kind_of(part) for part in parts] if isinstance(parts, list | tuple) else []
    return [kind for kind in kinds if kind not in _TEXT_PARTS]


def _kind_of(part: Any) -> str:
    if isinstance(part, Mapping):
        return str(part.get("block_type", part.get("type", "text")))
    return "text" if isinstance(part, str) else str(getattr(part, "block_type", type(part).__name__))


def _to_message(message: Any, number: int) -> ChatMessage:
    if isinstance(message, ChatMessage) and message.role in SPEAKERS:
        return message
    try:
        if isinstance(message, ChatMessage):
            read = Message(role=message.role, content=message.content)  # type: ignore[arg-type]
        else:
            read = message if isinstance(message, Message) else Message.model_validate(message)
    except ValidationError as error:
        raise InputError(f"message {number} of the dialogue: {_first_problem(error)}") from error
    return ChatMessage(role=read.role, content=read.content)


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    said = first["msg"].removeprefix("Value error, ")
    return f"{place}: {said}" if place else said


def _parse_turn(raw: Any, where: str) -> Turn:
    if isinstance(raw, Mapping) and "messages" not in raw:
        key = next((key for key in _MESSAGES_KEYS if isinstance(raw.get(key), list)), None)
        if key is not None:
            raw = {"messages": raw[key], **{other: raw[other] for other in raw if other != key}}
    if not isinstance(raw, Mapping) or "messages" not in raw:
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


def read_conversation(path: str | Path) -> Turn:
    """Read one dialogue; ``-`` reads standard input.

    It may be a JSON object with ``messages``, a bare JSON list of messages, JSON Lines with a message a line,
    or plain text: what the user says, or a transcript whose lines begin with "User:", "Assistant:" and
    the like.

    Raises
    ------
    InputError
        If the file is missing, a message cannot be read, or there is none with text.
    """
    where = "standard input" if str(path) == "-" else str(path)
    text = decoded(sys.stdin.buffer.read(), where) if str(path) == "-" else read_text(path)
    if not text.lstrip().startswith(("{", "[")):
        return _parse_turn({"messages": _transcript(text)}, where)
    lines = [line for line in text.split("\n") if line.strip()]  # JSON strings may hold other breaks
    try:
        raw = parse_json(text, where)
    except InputError:
        if len(lines) < 2 or not lines[0].rstrip().endswith("}"):
            raise
        raw = [parse_json(line, f"{where}:{number}") for number, line in enumerate(lines, 1)]
    if isinstance(raw, list):
        raw = {"messages": raw}
    elif isinstance(raw, Mapping) and "messages" not in raw and _first_of(raw, _ROLE_KEYS):
        raw = {"messages": [raw]}
    return _parse_turn(raw, where)


def _transcript(text: str) -> list[dict[str, str]]:
    """Return what plain text says: messages where its lines name both sides, else one of the user."""
    said: list[dict[str, str]] = []
    for line in text.strip().split("\n"):
        by = _SAID_BY.fullmatch(line)
        if by is not None and _folded_role(by[1]) in _SIDES:
            said.append({"role": by[1], "content": by[2]})
        elif said:
            said[-1]["content"] += f"\n{line}"
        else:
            break
    # "Expert: I am none" is no transcript, so the user has to speak in it.
    if any(_SIDES[_folded_role(message["role"])] == "user" for message in said):
        return said
    return [{"role": "user", "content": text.strip()}]


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
    for number, row in json_lines(path):
        turn = _parse_turn(row, f"{path}:{number}")
        if not turn.id:
            raise InputError(f"{path}:{number}: the turn has no 'id'")
        if turn.id in lines:
            raise InputError(f"{path}:{number}: id {turn.id!r} was used on line {lines[turn.id]} already")
        lines[turn.id] = number
        turns.append(turn)
    if not turns:
        raise InputError(f"{path}: no turn in it", hint="one JSON object with 'id' and 'messages' a line")
    return turns
