"""One way to ask a model, whichever it is: a `LocalLM` with adapters, or any LlamaIndex LLM."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from inspect import getattr_static
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.llms.llm import LLM

from reges_index.dialogue.measure import HFMeasure, TextMeasure, default_measure
from reges_index.driver import Do, Work, arun, off_loop, run
from reges_index.errors import AdapterError, ConfigError, LLMServerError
from reges_index.models.api_clients import is_openai_kind, single_attempt
from reges_index.models.api_faults import is_refused
from reges_index.models.api_requests import Requests
from reges_index.models.chat_frame import ChatFrame
from reges_index.models.generation import Generation
from reges_index.models.llm import ReGeSLLM, chat_response, wrap_llm
from reges_index.models.local_lm import LocalLM
from reges_index.models.offers import offers_of
from reges_index.models.text import spoken
from reges_index.models.tracing import chat_ended, chat_started

__all__ = ["AUTO", "ApiBackend", "Backend", "LocalBackend", "chat_in_loop", "resolve_backend", "text_of"]

# The default of every ``adapter`` argument: the adapter of the component's role, where it is loaded.
AUTO = "auto"
# The form of a request that has all of the LLM's settings in it, see `ApiBackend.in_some_form`.
_AS_SET = "as set"


class Backend(ABC):
    """What the two experts need of a model.

    Attributes
    ----------
    adapter
        Name of the LoRA adapter in use; None for the bare model.
    measure
        Counts tokens as the model does (API models: approximately).
    inference_settings
        What the adapter's manifest recommends (budgets, decoding); empty without an adapter.
    """

    adapter: str | None = None
    measure: TextMeasure
    inference_settings: Mapping[str, Any]

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the model."""

    @property
    @abstractmethod
    def context_window(self) -> int:
        """Most tokens that prompt and answer may have together."""

    @abstractmethod
    def check_prompt(self, prompt_hash: str, *, role: str) -> None:
        """Raise `AdapterError` if the adapter was trained for another role, or with another prompt."""

    @abstractmethod
    def generate(self, prompts: Sequence[Sequence[ChatMessage]], **options: Any) -> list[list[str]]:
        """Return what the model says to each prompt; options as in `LocalLM.generate`.

        Its thoughts, and what it puts around its answer, are left out (`reges_index.models.text`).
        """

    @abstractmethod
    async def agenerate(self, prompts: Sequence[Sequence[ChatMessage]], **options: Any) -> list[list[str]]:
        """Return the answers to each prompt without blocking the event loop."""

    @abstractmethod
    def write(self, prompt: Sequence[ChatMessage], **options: Any) -> Work[str]:
        """Return the answer to one prompt as it was written; options as in `generate`."""


class LocalBackend(Backend):
    """A model in this process, with one of its adapters or none."""

    def __init__(self, lm: LocalLM, adapter: str | None) -> None:
        self.lm = lm
        self.adapter = adapter
        # As the model will read it: text that imitates a special token takes many tokens, not one.
        self.measure = HFMeasure(lm.tokenizer, prepare=ChatFrame(lm.tokenizer).break_up)
        self._manifest = lm.manifest(adapter) if adapter is not None else None
        self.inference_settings = self._manifest.inference if self._manifest is not None else {}

    @property
    def name(self) -> str:
        """Name of the base model."""
        return self.lm.name

    @property
    def context_window(self) -> int:
        """Most tokens of prompt and answer."""
        return self.lm.context_window

    def check_prompt(self, prompt_hash: str, *, role: str) -> None:
        """Raise `AdapterError` if the adapter was trained for another role, or with another prompt.

        An adapter that knows the prompt word for word will do, whatever its role is called.
        """
        if self._manifest is not None and self._manifest.prompt_hash != prompt_hash:
            if self._manifest.role != role:
                raise AdapterError(
                    f"adapter {self.adapter!r} was trained as {self._manifest.role}, not as {role}",
                    hint=f"use it where a {self._manifest.role} belongs, or name another adapter",
                )
            raise AdapterError(
                f"adapter {self.adapter!r} was trained with prompt {self._manifest.prompt_hash}, "
                f"this prompt is {prompt_hash}",
                hint="use the default prompt, pass adapter=None, or train an adapter for your prompt",
            )

    def generate(self, prompts: Sequence[Sequence[ChatMessage]], **options: Any) -> list[list[str]]:
        """Return the answers to each prompt, decoded in batches."""
        results = self._generations(prompts, **options)
        return [[spoken(generation.text) for generation in own] for own in results]

    def _generations(
        self, prompts: Sequence[Sequence[ChatMessage]], **options: Any
    ) -> list[list[Generation]]:
        for prompt in prompts:
            chat_started(prompt, model=self.name, adapter=self.adapter, options=options)
        results = self.lm.generate(prompts, adapter=self.adapter, **options)
        for prompt, own in zip(prompts, results, strict=True):
            for generation in own:
                chat_ended(prompt, chat_response(generation))
        return results

    async def agenerate(self, prompts: Sequence[Sequence[ChatMessage]], **options: Any) -> list[list[str]]:
        """Return the answers to each prompt; the model runs in a thread."""
        return await asyncio.to_thread(self.generate, prompts, **options)

    def write(self, prompt: Sequence[ChatMessage], **options: Any) -> Work[str]:
        """Return the answer to one prompt as it was written."""
        found: list[list[Generation]] = yield off_loop(self._generations, [prompt], **options)
        return found[0][0].text


class ApiBackend(Backend):
    """Any LlamaIndex LLM. Its own settings decide on temperature, length, time-out and retries.

    Requests that fail are repeated with back-off and counted (`RetryPolicy`, `tallied`); where none
    succeeds, an `LLMServerError` says why.

    Parameters
    ----------
    llm
        As the user gave it.

    Attributes
    ----------
    llm
        The same object.
    requests
        Sends, retries and counts.

    Raises
    ------
    ConfigError
        If the LLM does not know its own model, as LlamaIndex's ``OpenAI`` with another server's model name.
    """

    inference_settings: Mapping[str, Any] = {}

    def __init__(self, llm: LLM) -> None:
        self.llm = llm
        # LLMs of OpenAI's kind are copied, since they would retry by themselves.
        self._as_set = single_attempt(llm)
        self._plain = single_attempt(llm, plain=True) if is_openai_kind(llm) else self._as_set
        self._offers = offers_of(llm)
        self.requests = Requests(llm)
        self.measure = default_measure()
        try:
            llm.metadata  # noqa: B018  # a property that looks the model's name up
        except ValueError as error:
            raise ConfigError(
                f"{type(llm).__name__} does not know this model: {str(error)[:160]}",
                hint="for models of other servers take OpenAILike, which is told what the model can do",
            ) from error

    @property
    def name(self) -> str:
        """Name of the model."""
        return str(self.llm.metadata.model_name)

    @property
    def context_window(self) -> int:
        """Most tokens of prompt and answer, as the LLM's metadata say."""
        return int(self.llm.metadata.context_window)

    def check_prompt(self, prompt_hash: str, *, role: str) -> None:
        """Accept every prompt: what adapter the server runs, and how that was trained, it does not say."""

    def generate(self, prompts: Sequence[Sequence[ChatMessage]], **options: Any) -> list[list[str]]:
        """Return the answers to each prompt, one request after the other.

        Raises
        ------
        LLMServerError
            If a request gets no usable answer.
        """
        times = int(options.get("num_return_sequences", 1))
        return [[spoken(text_of(self.chat(prompt))) for _ in range(times)] for prompt in prompts]

    async def agenerate(self, prompts: Sequence[Sequence[ChatMessage]], **options: Any) -> list[list[str]]:
        """Return the answers to each prompt; all requests are under way at once. See `generate`."""
        times = int(options.get("num_return_sequences", 1))
        tasks = [asyncio.ensure_future(self.achat(prompt)) for prompt in prompts for _ in range(times)]
        try:
            texts = [spoken(text_of(reply)) for reply in await asyncio.gather(*tasks)]
        finally:
            for task in tasks:  # gather leaves them, with their retries, when one of them fails
                task.cancel()
        return [texts[start : start + times] for start in range(0, len(texts), times)]

    def write(self, prompt: Sequence[ChatMessage], **options: Any) -> Work[str]:  # noqa: ARG002
        """Return the answer to one prompt as it was written; the LLM's own settings hold."""
        return text_of((yield from self.chat_plan(prompt)))

    @property
    def sender(self) -> LLM:
        """What is asked in the LLM's place, in the form that its server is known to take."""
        return self._as_set if self._offers.has(_AS_SET) else self._plain

    def chat_plan(self, prompt: Sequence[ChatMessage]) -> Work[ChatResponse]:
        """Send one chat, with retries.

        Raises
        ------
        LLMServerError
            If it gets no usable answer.
        """
        reply: ChatResponse = yield from self.in_some_form(
            lambda llm: Do(lambda: llm.chat(list(prompt)), lambda: chat_in_loop(llm, prompt))
        )
        return reply

    def in_some_form(self, ask: Callable[[LLM], Do]) -> Work[Any]:
        """Send a request as the LLM is set, and where the server refuses that, in its plainest form.

        Some models refuse a temperature, and want ``max_completion_tokens`` in place of ``max_tokens``. What
        is refused twice while the plain form is taken is not sent any more.

        Parameters
        ----------
        ask
            Makes the request to the LLM that it is given.

        Raises
        ------
        LLMServerError
            If no usable answer comes.
        """
        refused: LLMServerError
        try:
            return (yield from self.requests.plan(ask(self.sender)))
        except LLMServerError as error:
            if not is_refused(error) or self.sender is self._plain:
                raise
            refused = error
        try:
            reply = yield from self.requests.plan(ask(self._plain))
        except LLMServerError as error:
            raise (refused if is_refused(error) else error) from None
        self._offers.failed(_AS_SET)
        return reply

    def chat(self, prompt: Sequence[ChatMessage]) -> ChatResponse:
        """Do `chat_plan` in this thread."""
        return run(self.chat_plan(prompt))

    async def achat(self, prompt: Sequence[ChatMessage]) -> ChatResponse:
        """Do `chat_plan` without blocking the event loop."""
        return await arun(self.chat_plan(prompt))


async def chat_in_loop(llm: LLM, prompt: Sequence[ChatMessage]) -> ChatResponse:
    """Send one chat without blocking the event loop, whatever the LLM's ``achat`` does."""
    # CustomLLM's own achat calls chat() on the loop. Compared statically: every access wraps it anew.
    if getattr_static(type(llm), "achat") is getattr_static(CustomLLM, "achat"):
        return await asyncio.to_thread(llm.chat, list(prompt))
    return await llm.achat(list(prompt))


def text_of(reply: ChatResponse) -> str:
    """Return what a reply says; the empty string for one without text."""
    return str(reply.message.content or "")


def resolve_backend(llm: LLM | LocalLM | None, *, role: str, adapter: str | None = AUTO) -> Backend:
    """Find the back end behind what a user passed as ``llm``.

    Parameters
    ----------
    llm
        None stands for the embedded default with its shipped adapters.
    role
        The adapter that `AUTO` looks for.
    adapter
        A name, None for the bare model, or `AUTO`. A `ReGeSLLM` that names an adapter keeps it under `AUTO`.

    Raises
    ------
    ConfigError
        If ``llm`` is no LLM, or an adapter is asked of a model that cannot hold one.
    AdapterError
        If a named adapter is not loaded.
    """
    if llm is None:
        llm = LocalLM.default()
    if not isinstance(llm, (LocalLM, LLM)):
        raise ConfigError(
            f"llm is a {type(llm).__name__}, which is no LLM",
            hint="pass a LocalLM, a LlamaIndex LLM, or None for the embedded model",
        )
    local = llm if isinstance(llm, LocalLM) else wrap_llm(llm)
    if local is None:
        if adapter not in (AUTO, None):
            raise ConfigError(
                f"adapter={adapter!r} needs a LocalLM; {type(llm).__name__} holds no adapters of ours",
                hint="behind a server, an adapter is the model of an LLM of its own: OpenAILike(model=...)",
            )
        return ApiBackend(llm)  # type: ignore[arg-type]  # wrap_llm always knows a LocalLM
    if adapter == AUTO:
        own = llm.adapter if isinstance(llm, ReGeSLLM) else None
        adapter = own or (role if local.has_adapter(role) else None)
    elif adapter is not None and not local.has_adapter(adapter):
        raise AdapterError(
            f"no adapter {adapter!r} is loaded in {local.name}",
            hint=f"loaded: {', '.join(local.adapters) or 'none'}; load it with LocalLM.load_adapter",
        )
    return LocalBackend(local, adapter)
