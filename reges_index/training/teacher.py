"""Asking the teacher: any LlamaIndex LLM, with bounded retries, token counts and cost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms.llm import LLM
from pydantic import BaseModel, ConfigDict, Field, model_validator

from reges_index.dialogue import TextMeasure
from reges_index.driver import Do, arun
from reges_index.errors import ConfigError
from reges_index.models.backend import ApiBackend, LocalBackend, chat_in_loop, resolve_backend
from reges_index.models.local_lm import LocalLM
from reges_index.models.named import api_kind, open_api_llm
from reges_index.remote import RetryPolicy

TEACHER_HELP = (
    '"embedded"; a model\'s folder or hub name; "openai-like:MODEL@URL" for a server that speaks OpenAI\'s '
    'protocol, URL with its /v1 (key from OPENAI_LIKE_API_KEY, if it wants one); "openai:MODEL" (key from '
    "OPENAI_API_KEY)"
)


class TeacherSettings(BaseModel):
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
        Most seconds that one request may take, for a teacher that is given by its name; an LLM object has a
        setting of its own.
    max_new_tokens
        Most tokens of an answer, for models in this process and for those given by name; an LLM object has a
        setting of its own. None is what the task needs: 128 for a query, 256 for reasoning or a ranking.
    max_input_tokens
        Most tokens of a prompt (4,096 as in section 3.3); old messages are cut and counted.
    price_in, price_out
        Cost of a million tokens read and written, in any currency; None where it is not known.
    patience
        How many turns in a row may fail, retries included, before the run gives up.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    concurrency: int = Field(default=4, ge=1)
    max_retries: int = Field(default=5, ge=0)
    first_wait_s: float = Field(default=1.0, ge=0)
    longest_wait_s: float = Field(default=60.0, ge=0)
    timeout_s: float = Field(default=120.0, gt=0)
    max_new_tokens: int | None = Field(default=None, ge=1)
    max_input_tokens: int = Field(default=4096, ge=64)
    price_in: float | None = Field(default=None, ge=0)
    price_out: float | None = Field(default=None, ge=0)
    patience: int = Field(default=5, ge=1)

    @model_validator(mode="after")
    def _both_prices(self) -> TeacherSettings:
        if (self.price_in is None) != (self.price_out is None):
            raise ValueError("the cost needs both prices, price_in and price_out")
        return self

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


class Teacher:
    """A teacher LLM with retries.

    Parameters
    ----------
    llm
        A name (see `TEACHER_HELP`), a `LocalLM` or any LlamaIndex LLM; None is the embedded model.
    settings
        How to ask it.
    answer_tokens
        Most tokens of an answer where the settings say nothing.

    Raises
    ------
    ConfigError
        If a name is malformed, a key is missing, or the client library is not installed.
    ModelNotFoundError
        If a local model is nowhere to be found.
    """

    def __init__(
        self,
        llm: LLM | LocalLM | str | None,
        settings: TeacherSettings | None = None,
        answer_tokens: int = 128,
    ) -> None:
        self.settings = settings = settings or TeacherSettings()
        self._answer_tokens = settings.max_new_tokens or answer_tokens
        self._backend = resolve_backend(self._opened(llm) if isinstance(llm, str) else llm, role="teacher")
        if isinstance(self._backend, ApiBackend):
            # A run of hours waits as long as the server asks, within reason.
            self._backend.policy = RetryPolicy(
                settings.max_retries, settings.first_wait_s, settings.longest_wait_s, patience_s=120.0
            )

    def _opened(self, name: str) -> LLM | LocalLM:
        """Open a model by its name; keys come from the environment only, so that no recipe holds one."""
        if not name.strip():
            raise ConfigError("the teacher's name is empty", hint=TEACHER_HELP)
        kind = api_kind(name)
        if kind is None:
            return LocalLM.from_pretrained(name)
        options: dict[str, Any] = {
            "timeout": self.settings.timeout_s, "temperature": 0.0, "max_tokens": self._answer_tokens,
        }  # fmt: skip
        if kind == "openai-like":
            # The context window of the server's model is not known here; ours is the limit that counts.
            options["context_window"] = self.settings.max_input_tokens + self._answer_tokens
        return open_api_llm(name, options, called="teacher", forms=TEACHER_HELP)

    @property
    def name(self) -> str:
        """Name of the model, with the adapter it runs with."""
        adapter = self._backend.adapter
        return f"{self._backend.name}+{adapter}" if adapter else self._backend.name

    @property
    def at_once(self) -> int:
        """How many questions may be under way: one for a model in this process."""
        return 1 if isinstance(self._backend, LocalBackend) else self.settings.concurrency

    @property
    def measure(self) -> TextMeasure:
        """Counts tokens as the model does, approximately for models behind an API."""
        return self._backend.measure

    @property
    def max_prompt_tokens(self) -> int:
        """Most tokens that a prompt may have."""
        return min(self.settings.max_input_tokens, self._backend.context_window - self._answer_tokens)

    async def ask(self, messages: Sequence[ChatMessage]) -> TeacherAnswer:
        """Ask one question and wait for the answer.

        Raises
        ------
        LLMServerError
            If the server refuses the prompt, or does not answer after all retries.
        """
        backend = self._backend
        if isinstance(backend, LocalBackend):
            [[done]] = await asyncio.to_thread(
                backend.lm.generate, [messages], adapter=backend.adapter, max_new_tokens=self._answer_tokens
            )
            cut = done.finish_reason == "length"
            return TeacherAnswer(done.text, done.prompt_tokens, done.new_tokens, cut=cut)
        assert isinstance(backend, ApiBackend)
        prompt = list(messages)
        reply = await arun(
            backend.in_some_form(lambda llm: Do(lambda: llm.chat(prompt), lambda: chat_in_loop(llm, prompt)))
        )
        text, counts = str(reply.message.content or ""), _usage(reply)
        estimated = counts is None
        if counts is None:
            count = self.measure.count
            counts = sum(count(m.content or "") for m in messages), count(text)
        choices = getattr(reply.raw, "choices", None) or [None]
        cut = getattr(choices[0], "finish_reason", None) == "length"
        return TeacherAnswer(text, *counts, estimated=estimated, cut=cut)


def _usage(reply: Any) -> tuple[int, int] | None:
    """Find token counts where LlamaIndex's integrations put them."""
    raw = reply.raw
    usage = raw.get("usage") if isinstance(raw, dict) else getattr(raw, "usage", None)
    for source in (reply.additional_kwargs, usage):
        values = source if isinstance(source, dict) else getattr(source, "__dict__", {})
        for names in (("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens")):
            read, written = map(values.get, names)
            if isinstance(read, int) and isinstance(written, int):
                return read, written
    return None
