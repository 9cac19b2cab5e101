"""An answer that arrives piece by piece, written in a thread that neither hangs nor outlives its reader."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from contextvars import copy_context
from types import TracebackType
from typing import Any, Self

from reges_index.errors import ModelError
from reges_index.models.chat_frame import ChatFrame
from reges_index.models.generation import Generation, GenerationOptions, generate_batch

__all__ = ["TextStream"]

_END = object()


class TextStream(Iterator[str]):
    """Iterator of text pieces; their concatenation is ``result.text``.

    Writing starts at the first ``next``, in a daemon thread that takes the model's lock for as long as it
    writes. The queue has no bound, so a slow reader never keeps the lock taken.

    Parameters
    ----------
    model, frame, prompt, options
        As for :func:`~reges_index.models.generation.generate_batch`, for one prompt.
    hold
        Makes the context in which the model may run.
    """

    def __init__(
        self,
        model: Any,
        frame: ChatFrame,
        prompt: Sequence[int],
        options: GenerationOptions,
        hold: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.result: Generation | None = None
        """The whole answer, once the stream has ended."""
        self.prompt_tokens = len(prompt)
        pieces: queue.SimpleQueue[Any] = queue.SimpleQueue()
        cancel = threading.Event()
        # The thread holds no reference to this object, so that dropping the stream ends it.
        run = copy_context().run
        self._thread = threading.Thread(
            target=run,
            args=(_write, model, frame, prompt, options, hold, pieces, cancel),
            name="reges-stream",
            daemon=True,
        )
        self._pieces, self._cancel = pieces, cancel
        self._started = self._ended = False

    def __next__(self) -> str:
        """Return the next piece, waiting for it."""
        if self._ended or self._cancel.is_set():
            raise StopIteration
        if not self._started:
            self._started = True
            self._thread.start()
        item = self._pieces.get()
        if isinstance(item, str):
            return item
        self._ended = True
        if isinstance(item, Generation):
            self.result = item
        elif isinstance(item, BaseException):
            raise item
        raise StopIteration

    def close(self) -> None:
        """End the writing after the token at hand. Does nothing to a stream that has ended."""
        self._cancel.set()
        # Wakes a reader that waits in another thread; one that comes later sees the flag.
        self._pieces.put(_END)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self._cancel.set()


def _write(
    model: Any,
    frame: ChatFrame,
    prompt: Sequence[int],
    options: GenerationOptions,
    hold: Callable[[], AbstractContextManager[None]],
    pieces: queue.SimpleQueue[Any],
    cancel: threading.Event,
) -> None:
    """Generate, and put texts, then the result or what went wrong, into ``pieces``."""
    try:
        streamer = _PieceStreamer(frame, options, pieces, len(prompt))
        with hold():
            result = generate_batch(model, frame, [prompt], options, streamer=streamer, cancel=cancel)[0][0]
        streamer.rest(result.text)
        pieces.put(result)
    except BaseException as problem:  # raised to the reader by TextStream.__next__
        pieces.put(problem)


class _PieceStreamer:
    """Receives tokens from ``generate`` and passes on text that can no longer change.

    Text is held back while its last character may be incomplete and while it may be the beginning of a stop
    string.
    """

    def __init__(
        self,
        frame: ChatFrame,
        options: GenerationOptions,
        pieces: queue.SimpleQueue[Any],
        prompt_tokens: int,
    ) -> None:
        self._frame, self._options, self._pieces = frame, options, pieces
        self._skip = prompt_tokens
        self._tokens: list[int] = []
        self._sent = ""

    def put(self, value: Any) -> None:
        """Take the prompt (the first call) or the next token."""
        tokens = value.reshape(-1).tolist()
        if self._skip:
            if len(tokens) != self._skip:
                raise ModelError(f"expected the prompt's {self._skip} tokens first, got {len(tokens)}")
            self._skip = 0
            return
        self._tokens += tokens
        text = self._frame.decode(self._tokens)
        if text.endswith("\ufffd"):
            return
        self._send(text[: len(text) - _open_end(text, self._options.stop)])

    def end(self) -> None:
        """Nothing to do: what was held back is sent by :meth:`rest`, cut at the stop string."""

    def rest(self, whole: str) -> None:
        """Send what is left of the whole text."""
        self._send(whole)

    def _send(self, text: str) -> None:
        if len(text) > len(self._sent):
            self._pieces.put(text[len(self._sent) :])
            self._sent = text


def _open_end(text: str, stop: Sequence[str]) -> int:
    """Length of the text's end that belongs to a stop string or may be the beginning of one."""
    held = 0
    for mark in stop:
        found = text.find(mark)
        if found >= 0:
            held = max(held, len(text) - found)
        for length in range(min(len(mark) - 1, len(text)), 0, -1):
            if text.endswith(mark[:length]):
                held = max(held, length)
                break
    return held
