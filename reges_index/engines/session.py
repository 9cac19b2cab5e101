"""One conversation: its memory, what was recommended in it, and the answers that go into it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.chat_engine.types import AgentChatResponse
from llama_index.core.llms.llm import LLM
from llama_index.core.memory import BaseMemory
from llama_index.core.memory.types import BaseChatStoreMemory
from llama_index.core.tools import ToolOutput

from reges_index.catalog.item import Item
from reges_index.dialogue import one_line
from reges_index.dialogue.render import SEARCH_KEY
from reges_index.driver import Do, Work
from reges_index.engines.query_engine import Recommendation
from reges_index.engines.small_talk import is_known

_SENTENCE_END = re.compile(r"[.!?…]+[\"”’)]*(?=\s|$)")


@dataclass(frozen=True)
class Reply:
    """One answer before it is put into a LlamaIndex response object.

    Attributes
    ----------
    found, response
        The recommendation, and the query engine's response; None for small talk and answers to questions.
    about
        The item that a question was answered about.
    """

    text: str
    found: Recommendation | None = None
    response: RESPONSE_TYPE | None = None
    about: Item | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        """What LlamaIndex's response says beside the text."""
        if self.about is not None:
            return {"small_talk": False, "question_about": self.about.id, "item_id": None}
        if self.response is None:
            return {"small_talk": True, "item_id": None}
        return {"small_talk": False, **(self.response.metadata or {})}

    @property
    def sources(self) -> list[ToolOutput]:
        """The recommendation, as the output of a tool; empty where nothing was recommended.

        Its report says what became of the answer, too.
        """
        if self.found is None:
            return []
        report = self.metadata.get("report", self.found.report)
        return [
            ToolOutput(
                tool_name="reges",
                content=self.text,
                raw_input={"query": self.found.query},
                raw_output=replace(self.found, report=report),
            )
        ]


def whole_sentences(text: str) -> str:
    """Return the first line of what the model wrote, without a sentence that the token limit cut off."""
    line = next((one_line(line) for line in text.splitlines() if line.strip()), "Hello! What do you like?")
    ends = [match.end() for match in _SENTENCE_END.finditer(line)]
    return line[: ends[-1]] if ends else line


def as_response(reply: Reply) -> AgentChatResponse:
    """Return a reply as LlamaIndex's chat response."""
    return AgentChatResponse(
        response=reply.text,
        sources=reply.sources,
        source_nodes=reply.found.nodes if reply.found else [],
        metadata=reply.metadata,
    )


@dataclass(frozen=True)
class OpenTurn:
    """A turn that is being answered: what the user said, and the state of the session when it began.

    Attributes
    ----------
    history
        What the caller gave in the memory's place; None is the memory.
    barred
        Items that must not be recommended: those of earlier turns, and those of the caller's.
    recommended
        Of these, what was recommended before.
    resets
        How often the session had been reset.
    last
        The item that was recommended last, which a question may be about.
    """

    user: ChatMessage
    history: list[ChatMessage] | None
    barred: list[str]
    recommended: list[str]
    resets: int
    last: Item | None = None


class Session:
    """What turns read when they begin and write when they end; one turn at a time.

    A reset may come at any time. A turn that began before it is not remembered, since what it answers belongs
    to the conversation that was to be forgotten.

    Parameters
    ----------
    memory
        Any LlamaIndex memory.
    """

    def __init__(self, memory: BaseMemory) -> None:
        self.memory = memory
        self._recommended: list[str] = []
        self._last: Item | None = None
        # What was recommended before each turn, for `undo`.
        self._before: list[tuple[list[str], Item | None]] = []
        self._resets = 0
        self._writing = threading.Lock()

    def reset(self) -> None:
        """Forget everything, without waiting for a turn under way."""
        with self._writing:
            self._resets += 1
            self.memory.reset()
            self._recommended, self._last, self._before = [], None, []

    def undo(self) -> bool:
        """Take back the last message of the user and what came after it; False where there is none.

        What was recommended in it may be recommended again.
        """
        with self._writing:
            said = self.memory.get_all()
            users = [n for n, message in enumerate(said) if message.role == MessageRole.USER]
            if not users:
                return False
            self._resets += 1  # a turn under way belongs to what is taken back
            self.memory.set(said[: users[-1]])
            self._recommended, self._last = self._before.pop() if self._before else ([], None)
        return True

    def begin(
        self, user: ChatMessage, history: list[ChatMessage] | None, exclude_ids: Iterable[str] = ()
    ) -> OpenTurn:
        """Open a turn."""
        # With a history of the caller's this is another conversation, of which we have recommended nothing.
        before, last = (list(self._recommended), self._last) if history is None else ([], None)
        if last is not None and is_known(user.content or ""):  # the wish is in an earlier message
            user = _searched_as(user, "")
        return OpenTurn(user, history, [*before, *exclude_ids], before, self._resets, last)

    def dialogue(self, turn: OpenTurn) -> Work[Sequence[ChatMessage]]:
        """Get all that was said, the turn's message last."""
        before = turn.history
        if before is None:
            before = yield Do(self.memory.get_all, self.memory.aget_all)
        return [*before, turn.user]

    def remember(self, turn: OpenTurn, reply: Reply) -> Work[None]:
        """Write a turn that has ended, unless there was a reset meanwhile."""
        # One lock for all of it would be held while other tasks run. What a reset has missed goes after.
        if turn.resets != self._resets:
            return
        memory, history = self.memory, turn.history
        if history is not None:
            kept = list(history)  # a memory may go on writing into the list that it is given
            yield Do(partial(self._locked, memory.set, kept), partial(memory.aset, kept))
        # The next turn searches with the title alone, and with nothing of small talk and questions.
        title = reply.found.item.title if reply.found and reply.found.item else ""
        user = turn.user if reply.found is not None else _searched_as(turn.user, "")
        answer = _searched_as(ChatMessage(role=MessageRole.ASSISTANT, content=reply.text), title)
        for message in (user, answer):
            yield Do(partial(self._locked, memory.put, message), partial(memory.aput, message))
        picked = [reply.found.item.id] if reply.found and reply.found.item else []
        with self._writing:
            self._before.append((self._recommended, self._last))
            self._recommended = [*turn.recommended, *picked]
            self._last = reply.found.item if reply.found and reply.found.item else turn.last
            missed = turn.resets != self._resets
            if missed:
                self._recommended, self._last, self._before = [], None, []
        if missed:
            yield Do(memory.reset, memory.areset)

    def _locked(self, change: Callable[..., None], *args: Any) -> None:
        with self._writing:
            change(*args)


def _searched_as(message: ChatMessage, words: str) -> ChatMessage:
    """Return a message whose ``words`` alone are searched with."""
    return message.model_copy(update={"additional_kwargs": {**message.additional_kwargs, SEARCH_KEY: words}})


class EndlessMemory(BaseChatStoreMemory):
    """A memory that keeps every message, in a list: the experts cut the dialogue themselves, and say so.

    LlamaIndex's own `Memory` opens a database for each chat, which costs more than the rest of a turn.
    """

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex writes beside a saved memory."""
        return "EndlessMemory"

    @classmethod
    def from_defaults(
        cls, chat_history: list[ChatMessage] | None = None, llm: LLM | None = None, **fields: Any
    ) -> EndlessMemory:
        """Return a memory that starts from a history; nothing is cut for any ``llm``."""
        del llm
        memory = cls(**fields)
        memory.set(list(chat_history or []))
        return memory
