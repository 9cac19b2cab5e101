"""Sampling and greedy decoding on top of ``transformers``' ``generate``: in batches, and piece by piece."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from contextvars import copy_context
from dataclasses import dataclass, fields
from threading import Event
from types import TracebackType
from typing import Any, Literal, Self

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)

from reges_index.errors import InputError, ModelError, meant
from reges_index.models.chat_frame import ChatFrame

_END = object()

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Generation:
    """One generated text.

    Attributes
    ----------
    text
        The text, without special tokens and without the stop string.
    prompt_tokens, new_tokens
        Tokens read and written; ``new_tokens`` counts the end token.
    finish_reason
        "stop" for an end token or a stop string, "length" for ``max_new_tokens``, "cancelled" for a stream
        whose reader left.
    """

    text: str
    prompt_tokens: int
    new_tokens: int
    finish_reason: FinishReason


@dataclass(frozen=True)
class GenerationOptions:
    """How to decode. The defaults are greedy; the paper's item expert samples at temperature 0.1.

    Attributes
    ----------
    max_new_tokens
        At most this many tokens, end token included.
    temperature
        0 is greedy; above, tokens are sampled.
    top_p
        Sample from the smallest set of tokens with this much probability.
    stop
        Texts at which to end; they are cut off.
    no_repeat_ngram_size
        Forbid token n-grams of this size to occur twice in the answer; 0 allows them. The prompt does not
        count, unlike in transformers: a query may name a title that the dialogue names.
    num_return_sequences
        Samples per prompt; more than one needs a temperature.
    seed
        Seed of the sampling; the global random state is left as it was. None samples from the global state.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    no_repeat_ngram_size: int = 0
    num_return_sequences: int = 1
    seed: int | None = None

    @classmethod
    def of(cls, **options: Any) -> GenerationOptions:
        """Build them of what a caller passed on; one stop text may stand alone.

        Raises
        ------
        InputError
            For an option that does not exist, or a value that cannot be.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(options) - set(known)):
            raise InputError(f"generation has no option {', '.join(unknown)}", hint=meant(unknown, known))
        stop = options.get("stop", ())
        return cls(**{**options, "stop": (stop,) if isinstance(stop, str) else tuple(stop)})

    def __post_init__(self) -> None:
        """Refuse values that ``generate`` would refuse later, or worse, accept."""
        for name, good, wanted in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("no_repeat_ngram_size", self.no_repeat_ngram_size >= 0, "0 or more"),
            ("num_return_sequences", self.num_return_sequences >= 1, "at least 1"),
            ("stop", all(self.stop), "texts that are not empty"),
        ):
            if not good:
                raise InputError(f"{name}={getattr(self, name)!r} cannot be used", hint=f"give {wanted}")
        if self.num_return_sequences > 1 and self.temperature == 0:
            raise InputError(
                f"num_return_sequences={self.num_return_sequences} with temperature=0: greedy has one result",
                hint="give a temperature above 0",
            )

    def to_config(self, frame: ChatFrame) -> GenerationConfig:
        """Every field is set, because transformers fills gaps from the model's own generation config."""
        sampling = self.temperature > 0
        pad = frame.tokenizer.pad_token_id
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            min_new_tokens=0,
            do_sample=sampling,
            temperature=self.temperature if sampling else 1.0,
            top_p=self.top_p if sampling else 1.0,
            top_k=0 if sampling else 50,  # 50 is transformers' neutral default without sampling
            num_beams=1,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,  # see `_NoRepeatInAnswer`
            num_return_sequences=self.num_return_sequences,
            eos_token_id=frame.stop_token_ids,
            pad_token_id=frame.end_token_id if pad is None else pad,
            use_cache=True,
            return_dict_in_generate=False,
        )


class _NoRepeatInAnswer(LogitsProcessor):
    """transformers' n-gram ban, blind to the prompt."""

    def __init__(self, size: int, prompt_length: int) -> None:
        self._ban, self._prompt_length = NoRepeatNGramLogitsProcessor(size), prompt_length

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Return the scores with repeating tokens banned, [rows, vocabulary]."""
        return self._ban(input_ids[:, self._prompt_length :], scores)


class StopOnText(StoppingCriteria):
    """Ends a row once a stop string has been written, or all rows once ``cancel`` is set."""

    def __init__(
        self, frame: ChatFrame, prompt_length: int, stop: Sequence[str], cancel: Event | None = None
    ) -> None:
        self._frame, self._prompt_length, self._stop, self._cancel = frame, prompt_length, stop, cancel
        # A token writes at least one byte, except for pieces of a character: this tail is always enough.
        self._tail = max((len(text.encode()) for text in stop), default=0) + 8

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:  # noqa: ARG002 (transformers' signature)
        """Return which rows are finished, bool [rows]."""
        rows = input_ids.shape[0]
        if self._cancel is not None and self._cancel.is_set():
            return torch.ones(rows, dtype=torch.bool, device=input_ids.device)
        new = input_ids[:, self._prompt_length :][:, -self._tail :].tolist() if self._stop else [[]] * rows
        done = [any(text in self._frame.decode(row) for text in self._stop) for row in new]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


@contextlib.contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Seed torch for the block and put its random state back afterwards."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def generate_batch(
    model: Any,
    frame: ChatFrame,
    prompts: Sequence[Sequence[int]],
    options: GenerationOptions,
    *,
    streamer: Any = None,
    cancel: Event | None = None,
) -> list[list[Generation]]:
    """Decode one batch, padded on the left.

    Parameters
    ----------
    prompts
        Token ids of each prompt.

    Returns
    -------
    list of list of Generation
        For each prompt, ``num_return_sequences`` generations.
    """
    longest, step = max(map(len, prompts)), options.num_return_sequences
    size = options.no_repeat_ngram_size
    config = options.to_config(frame)
    ids = torch.full((len(prompts), longest), config.pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, longest - len(prompt) :] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    with torch.inference_mode(), seeded(options.seed, model.device):
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([_NoRepeatInAnswer(size, longest)] if size else []),
            stopping_criteria=StoppingCriteriaList([StopOnText(frame, longest, options.stop, cancel)]),
            streamer=streamer,
        )
    cancelled = cancel is not None and cancel.is_set()
    results = [
        _finish(frame, row, len(prompts[number // step]), options, cancelled)
        for number, row in enumerate(output[:, longest:].tolist())
    ]
    return [results[start : start + step] for start in range(0, len(results), step)]


def generate_all(
    model: Any,
    frame: ChatFrame,
    prompts: Sequence[Sequence[int]],
    options: GenerationOptions,
    *,
    batch_size: int,
    hold: Callable[[], AbstractContextManager[None]],
) -> list[list[Generation]]:
    """Decode any number of prompts, in batches of similar length; results in the order of the prompts.

    ``hold`` makes the context in which the model may run. It is entered anew for each batch, so that other
    callers need not wait for all of them.
    """
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} cannot be used", hint="give at least 1")
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    results: list[list[Generation]] = [[] for _ in prompts]
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        with hold():
            batch = generate_batch(model, frame, [prompts[index] for index in chosen], options)
        for index, generations in zip(chosen, batch, strict=True):
            results[index] = generations
    return results


def _finish(
    frame: ChatFrame, new: list[int], prompt_tokens: int, options: GenerationOptions, cancelled: bool
) -> Generation:
    """Cut a row at its end token or padding, and its text at the first stop string."""
    ends = {*frame.stop_token_ids, frame.tokenizer.pad_token_id}
    length = next((index for index, token in enumerate(new) if token in ends), len(new))
    text = frame.decode(new[:length])
    cuts = [position for position in (text.find(mark) for mark in options.stop) if position >= 0]
    if cuts:
        return Generation(text[: min(cuts)], prompt_tokens, length, "stop")
    if length < len(new):
        return Generation(text, prompt_tokens, length + 1, "stop")
    return Generation(text, prompt_tokens, length, "cancelled" if cancelled else "length")


class TextStream(Iterator[str]):
    """Iterator of text pieces; their concatenation is ``result.text``.

    Writing starts at the first ``next``, in a daemon thread that takes the model's lock for as long as it
    writes. The queue has no bound, so a slow reader never keeps the lock taken.

    Parameters
    ----------
    model, frame, prompt, options
        As for :func:`generate_batch`, for one prompt.
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
        streamer.send(result.text)  # what was held back, cut at the stop string
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
        self.send(text[: len(text) - _open_end(text, self._options.stop)])

    def end(self) -> None:
        """Do nothing, where ``generate`` says that it has ended."""

    def send(self, text: str) -> None:
        """Pass on what is new in all the text so far."""
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
