"""Chain of thought (section 3.7.2): the seeker's preferences in words, before the choice.

What is written is passed on token by token to whoever listens (`hear_reasoning`), so that a chat can show it
while the model still thinks. The listener is found through a context variable: concurrent turns, each in its
own task or thread, do not hear each other.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ChatResponseGen
from llama_index.core.llms.llm import LLM

from reges_index.dialogue.text import normalise, one_line
from reges_index.driver import Do, Work, off_loop, run
from reges_index.errors import ReGeSError
from reges_index.item_expert.prompt import SelectionPrompt
from reges_index.models.backend import ApiBackend, Backend, LocalBackend
from reges_index.models.text import SpokenStream, begins_in_thoughts, read_text
from reges_index.settings import ReasoningDecoding

T = TypeVar("T")

Listener = Callable[[str], None]
"""Gets each piece of text as it is written, in the thread that writes."""

_listener: ContextVar[Listener | None] = ContextVar("reges_reasoning_listener", default=None)


class ReasoningStopped(ReGeSError):
    """Nobody wants the rest of the reasoning; a listener raises it, and the turn ends with it."""


@contextmanager
def hear_reasoning(listener: Listener) -> Iterator[None]:
    """Pass on to ``listener`` what item experts write in this context (task or thread)."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@dataclass(frozen=True)
class Reasoning:
    """What was written before the choice.

    Attributes
    ----------
    text
        On one line; may be empty, when the model began with a title.
    tokens
        Tokens written.
    cut
        Whether the token limit ended it.
    """

    text: str
    tokens: int
    cut: bool


class Reasoner:
    """Writes the reasoning for a prompt, with a local model or any LlamaIndex LLM."""

    def __init__(self, backend: Backend, decoding: ReasoningDecoding, *, seed: int = 0) -> None:
        self._backend = backend
        self.decoding = decoding
        self._seed = seed

    def writing(self, prompt: SelectionPrompt) -> Work[Reasoning]:
        """Write it; ends early, with `ReasoningStopped`, when the listener raises that.

        A call that is cancelled in an event loop ends at the next token, or ends the API's request.
        """
        backend, listener, stop = self._backend, _listener.get(), threading.Event()
        if isinstance(backend, ApiBackend) and listener is None:
            ((answer,),) = yield from backend.said([prompt.messages])
            text, tokens, cut = self._within_limit(backend, answer)
        else:
            write = partial(self._aloud, prompt.messages, listener, stop)
            text, tokens, cut = yield Do(write, partial(_until_cancelled, write, stop))
        return Reasoning(tidy(text, prompt.labels), tokens, cut)

    def _aloud(
        self, messages: Sequence[ChatMessage], listener: Listener | None, stop: threading.Event
    ) -> tuple[str, int, bool]:
        """Write, and pass on what is said as it comes; return text, tokens, and whether the limit cut it."""
        said = SpokenStream(held=self._may_begin_in_thoughts())

        def hear(piece: str) -> None:
            if stop.is_set():
                raise ReasoningStopped("the turn was cancelled while the item expert reasoned")
            if listener is not None and (shown := said.feed(piece)):
                listener(shown)

        written = self._local if isinstance(self._backend, LocalBackend) else self._api
        text, tokens, cut = written(self._backend, messages, hear)  # type: ignore[arg-type]
        if listener is not None and (shown := said.end()):
            listener(shown)
        if isinstance(self._backend, ApiBackend):
            self._backend.offers.begins_in_thoughts = begins_in_thoughts(text)
        return text, tokens, cut

    def _may_begin_in_thoughts(self) -> bool:
        """Say whether the model's answers may begin with thoughts that no mark opens."""
        if isinstance(self._backend, LocalBackend):
            return self._backend.lm.opens_thoughts
        assert isinstance(self._backend, ApiBackend)
        return self._backend.offers.begins_in_thoughts

    def _local(
        self, backend: LocalBackend, messages: Sequence[ChatMessage], hear: Listener
    ) -> tuple[str, int, bool]:
        from reges_index.models.llm import chat_response

        decoding = self.decoding
        ends = backend.adapter is not None if decoding.one_line is None else decoding.one_line
        options: dict[str, Any] = {
            "max_new_tokens": decoding.max_new_tokens,
            "temperature": decoding.temperature,
            "no_repeat_ngram_size": decoding.no_repeat_ngram_size,
            "stop": ["\n"] if ends else [],
            "seed": self._seed,
        }
        backend.asked(messages, options)
        with backend.lm.stream(messages, adapter=backend.adapter, **options) as stream:
            for piece in stream:
                hear(piece)
        written = stream.result
        assert written is not None  # the stream has ended, and what goes wrong in it is raised
        backend.answered(messages, chat_response(written))
        return written.text, written.new_tokens, written.finish_reason == "length"

    def _api(
        self, backend: ApiBackend, messages: Sequence[ChatMessage], hear: Listener
    ) -> tuple[str, int, bool]:
        text = ""
        with closing(_streamed(backend, messages)) as pieces:
            for piece in pieces:
                text += piece
                hear(piece)
                if backend.measure.count(text) >= self.decoding.max_new_tokens:
                    break
        return self._within_limit(backend, text)

    def _within_limit(self, backend: ApiBackend, text: str) -> tuple[str, int, bool]:
        limit, measure = self.decoding.max_new_tokens, backend.measure
        tokens = measure.count(text)
        return (text, tokens, False) if tokens < limit else (measure.head(text, limit), limit, True)


async def _until_cancelled(write: Callable[[], T], stop: threading.Event) -> T:
    try:
        return await asyncio.to_thread(write)
    except asyncio.CancelledError:
        stop.set()
        raise


def _streamed(backend: ApiBackend, messages: Sequence[ChatMessage]) -> Generator[str, None, None]:
    """Yield an answer as it comes; where it fails before its first piece, it is asked for again."""

    def begin(llm: LLM) -> Do:
        def first() -> tuple[ChatResponseGen, ChatResponse | None]:
            stream = llm.stream_chat(list(messages))
            return stream, next(stream, None)

        return off_loop(first)

    stream, reply = run(backend.in_some_form(begin))
    with closing(stream):
        while reply is not None:
            yield reply.delta or ""
            try:
                reply = next(stream, None)
            except Exception as error:  # of the client library; what has been heard cannot be taken back
                failure = backend.explain(error)
                if failure is None:
                    raise
            else:
                continue
            raise failure


def tidy(text: str, labels: Sequence[str]) -> str:
    """Return the reasoning on one line, without the item that it may have gone on to name.

    Training puts the item on a line of its own behind the reasoning; a line that is one of the labels, and
    all behind it, is therefore no reasoning.
    """
    names = {name for label in labels if (name := normalise(label))}
    read = read_text(text)
    kept: list[str] = []
    for line in read.text.splitlines():
        if normalise(line) in names:
            break
        kept.append(line)
    # Of a model that has only thought, the thoughts are the reasoning.
    return one_line(" ".join(kept)) or one_line(read.thought)
