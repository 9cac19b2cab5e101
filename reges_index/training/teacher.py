"""Asking the teacher: any LlamaIndex LLM, with bounded retries, token counts and cost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms.llm import LLM

from reges_index.dialogue import TextMeasure
from reges_index.driver import Do, arun
from reges_index.errors import ConfigError, ModelError
from reges_index.models.backend import ApiBackend, LocalBackend, resolve_backend
from reges_index.models.local_lm import LocalLM
from reges_index.models.named import api_kind, open_api_llm
from reges_index.remote import (
    Attempts,
    RetryPolicy,
    fault_kind,
    http_status,
    is_transient,
    safe_cause,
    without_secrets,
)

__all__ = [
    "ANSWER_TOKENS",
    "TEACHER_HELP",
    "Teacher",
    "TeacherAnswer",
    "TeacherRefused",
    "TeacherSettings",
    "open_teacher",
]

ANSWER_TOKENS = 128
"""Most tokens of an answer where neither settings nor task say anything."""

TEACHER_HELP = (
    '"embedded"; a model\'s folder or hub name; "openai-like:MODEL@URL" for a server that speaks OpenAI\'s '
    'protocol, URL with its /v1 (key from OPENAI_LIKE_API_KEY, if it wants one); "openai:MODEL" (key from '
    "OPENAI_API_KEY)"
)

# Every further request would be answered the same: wrong key, no permission, no such model.
_HOPELESS_STATUS = frozenset({401, 403, 404})
_LONGEST_RETRY_AFTER_S = 120.0


@dataclass(frozen=True)
class TeacherSettings:
    """How a teacher is asked.

    Attributes
    ----------
    concurrency
        Requests under way at once. A model in this process runs one after the other, whatever this says.
    max_retries
        Further attempts after a time-out, a rate limit, a server error or a broken connection.
    first_wait_s, longest_wait_s
        Back-off in seconds: doubled from the first, with up to ``first_wait_s`` of jitter, never above the
        longest. A server's ``Retry-After`` header (up to 120 s) goes before it.
    timeout_s
        Most seconds that one request may take. Not for models in this process.
    max_new_tokens
        Most tokens of an answer, for models in this process and for those that `open_teacher` opens; an LLM
        object has a setting of its own. None is what the task needs: 128 for a query, 256 for reasoning.
    max_input_tokens
        Most tokens of a prompt (4,096 as in section 3.3); old messages are cut and counted.
    price_in, price_out
        Cost of a million tokens read and written, in any currency; None where it is not known.
    patience
        How many turns in a row may fail, retries included, before the run gives up.
    """

    concurrency: int = 4
    max_retries: int = 5
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    timeout_s: float = 120.0
    max_new_tokens: int | None = None
    max_input_tokens: int = 4096
    price_in: float | None = None
    price_out: float | None = None
    patience: int = 5

    def __post_init__(self) -> None:
        for name, low in (
            ("concurrency", 1), ("max_retries", 0), ("first_wait_s", 0), ("longest_wait_s", 0),
            ("timeout_s", 0.001), ("max_new_tokens", 1), ("max_input_tokens", 64), ("patience", 1),
        ):  # fmt: skip
            if getattr(self, name) is not None and getattr(self, name) < low:
                raise ConfigError(f"{name}={getattr(self, name)} cannot be used", hint=f"at least {low}")
        if (self.price_in is None) != (self.price_out is None):
            raise ConfigError("the cost needs both prices", hint="give price_in and price_out, or neither")
        if min(self.price_in or 0, self.price_out or 0) < 0:
            raise ConfigError(f"prices are {self.price_in} and {self.price_out}", hint="0 or more")

    def for_answers_of(self, tokens: int) -> TeacherSettings:
        """Return settings with a limit of answers: their own, or else this one."""
        return self if self.max_new_tokens is not None else replace(self, max_new_tokens=tokens)

    def cost(self, prompt_tokens: int, new_tokens: int) -> float | None:
        """Return what so many tokens cost; None without prices."""
        if self.price_in is None or self.price_out is None:
            return None
        return (prompt_tokens * self.price_in + new_tokens * self.price_out) / 1e6


@dataclass(frozen=True)
class TeacherAnswer:
    """One answer.

    Attributes
    ----------
    text
        As the model wrote it.
    prompt_tokens, new_tokens
        As the server reports them, or counted with the model's tokenizer.
    estimated
        Whether the server reported none and they were counted with another tokenizer.
    cut
        Whether the answer ended at its length limit.
    """

    text: str
    prompt_tokens: int
    new_tokens: int
    estimated: bool = False
    cut: bool = False


class TeacherRefused(ModelError):
    """The teacher did not answer this prompt; another one may fare better."""


@dataclass
class Teacher:
    """A teacher LLM with retries.

    Parameters
    ----------
    llm
        A `LocalLM`, `ReGeSLLM` or any LlamaIndex LLM; None is the embedded model.
    settings
        How to ask it.

    Attributes
    ----------
    retries
        Attempts so far beyond the first of each question.
    """

    llm: LLM | LocalLM | None
    settings: TeacherSettings = field(default_factory=TeacherSettings)
    retries: int = 0

    def __post_init__(self) -> None:
        self._backend = resolve_backend(self.llm, role="teacher")

    @property
    def name(self) -> str:
        """Name of the model, with the adapter it runs with."""
        adapter = self._backend.adapter
        return f"{self._backend.name}+{adapter}" if adapter else self._backend.name

    @property
    def runs_here(self) -> bool:
        """Whether the model is in this process: one question at a time, no time-out."""
        return isinstance(self._backend, LocalBackend)

    @property
    def measure(self) -> TextMeasure:
        """Counts tokens as the model does, approximately for models behind an API."""
        return self._backend.measure

    @property
    def max_prompt_tokens(self) -> int:
        """Most tokens that a prompt may have."""
        return min(self.settings.max_input_tokens, self._backend.context_window - self._answer_tokens)

    @property
    def _answer_tokens(self) -> int:
        return self.settings.max_new_tokens or ANSWER_TOKENS

    async def ask(self, messages: Sequence[ChatMessage]) -> TeacherAnswer:
        """Ask one question and wait for the answer.

        Raises
        ------
        TeacherRefused
            If the server refuses this prompt, or does not answer after all retries.
        ModelError
            If it would refuse every prompt (wrong key, unknown model), or the model cannot run.
        """
        backend = self._backend
        if isinstance(backend, LocalBackend):
            return await asyncio.to_thread(self._ask_here, backend, messages)
        assert isinstance(backend, ApiBackend)

        async def ask() -> Any:
            return await asyncio.wait_for(backend.llm.achat(list(messages)), self.settings.timeout_s)

        attempts = Attempts(self._policy, _may_pass, self.name)
        try:
            reply = await arun(attempts.plan(Do(lambda: asyncio.run(ask()), ask)))
        except ModelError:
            raise
        except Exception as error:  # whatever a client library raises
            raise self._explained(error, backend.llm) from safe_cause(error, backend.llm)
        finally:
            self.retries += attempts.made - 1
        return self._answer(reply, messages)

    def _ask_here(self, backend: LocalBackend, messages: Sequence[ChatMessage]) -> TeacherAnswer:
        [[done]] = backend.lm.generate(
            [messages], adapter=backend.adapter, max_new_tokens=self._answer_tokens
        )
        return TeacherAnswer(
            done.text, done.prompt_tokens, done.new_tokens, cut=done.finish_reason == "length"
        )

    @property
    def _policy(self) -> RetryPolicy:
        chosen = self.settings
        return RetryPolicy(
            chosen.max_retries, chosen.first_wait_s, chosen.longest_wait_s, patience_s=_LONGEST_RETRY_AFTER_S
        )

    def _explained(self, error: Exception, llm: LLM) -> ModelError:
        status = http_status(error)
        what = f"{self.name}: {fault_kind(error)}: {without_secrets(str(error), llm)[:300]}"
        if status in _HOPELESS_STATUS:
            return ModelError(
                f"the teacher cannot be used: {what}",
                hint="check the key in the environment, the model's name and the server's address",
            )
        if _may_pass(error):
            tries = self.settings.max_retries + 1
            return TeacherRefused(f"no answer after {tries} attempts: {what}", hint="run again later")
        if status is not None:
            return TeacherRefused(f"the teacher refused the prompt: {what}")
        return ModelError(f"the teacher failed: {what}", hint="does this LLM answer achat() at all?")

    def _answer(self, reply: Any, messages: Sequence[ChatMessage]) -> TeacherAnswer:
        text = str(reply.message.content or "")
        counts = _usage(reply)
        estimated = counts is None
        if counts is None:
            counts = (
                sum(self.measure.count(m.content or "") for m in messages),
                self.measure.count(text),
            )
        choices = getattr(reply.raw, "choices", None) or [None]
        cut = getattr(choices[0], "finish_reason", None) == "length"
        return TeacherAnswer(text, *counts, estimated=estimated, cut=cut)


def _may_pass(error: BaseException) -> bool:
    """Say whether the same question may be answered a moment later; half an answer counts as well."""
    halves = isinstance(error, json.JSONDecodeError) or isinstance(error.__cause__, json.JSONDecodeError)
    return is_transient(error) or (halves and http_status(error) is None)


def _usage(reply: Any) -> tuple[int, int] | None:
    """Find token counts where LlamaIndex's integrations put them."""
    raw = reply.raw
    usage = raw.get("usage") if isinstance(raw, dict) else getattr(raw, "usage", None)
    for source in (reply.additional_kwargs, usage):
        for names in (("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens")):
            if source is None:
                continue
            read, written = (
                source.get(n) if isinstance(source, dict) else getattr(source, n, None) for n in names
            )
            if isinstance(read, int) and isinstance(written, int):
                return read, written
    return None


def open_teacher(spec: str, settings: TeacherSettings) -> LLM | LocalLM:
    """Open the LLM that ``spec`` names.

    Keys come from the environment only, so that they stand in no recipe, history or process list.

    Parameters
    ----------
    spec
        See `TEACHER_HELP`.
    settings
        Gives the request time-out and the limit of an answer (`ANSWER_TOKENS` where there is none), which is
        sent to a server. Retries are `Teacher`'s, so the client's own are switched off.

    Raises
    ------
    ConfigError
        If the name is malformed, a key is missing, or the client library is not installed.
    ModelNotFoundError
        If a local model is nowhere to be found.
    """
    kind = api_kind(spec)
    if kind is None:
        if not spec.strip():
            raise ConfigError("the teacher's name is empty", hint=TEACHER_HELP)
        return LocalLM.from_pretrained(spec)
    longest = settings.max_new_tokens or ANSWER_TOKENS
    options = {
        "max_retries": 0,
        "timeout": settings.timeout_s,
        "temperature": 0.0,
        "max_tokens": longest,
        "reuse_client": False,
    }
    if kind == "openai-like":
        # The context window of the server's model is not known here; ours is the limit that counts.
        options["context_window"] = settings.max_input_tokens + longest
    return open_api_llm(spec, options, called="teacher", forms=TEACHER_HELP)
