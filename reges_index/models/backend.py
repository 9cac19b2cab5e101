"""One way to ask a model, whichever it is: a `LocalLM` with adapters, or any LlamaIndex LLM."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from inspect import getattr_static
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import PromptTemplate

from reges_index.dialogue.measure import HFMeasure, TextMeasure, default_measure
from reges_index.driver import Do, Work, arun, off_loop, run
from reges_index.errors import AdapterError, ConfigError, LLMServerError
from reges_index.models.adapters import ROLES, AdapterManifest, needs_manifest
from reges_index.models.api_clients import is_openai_kind, single_attempt
from reges_index.models.api_faults import is_refused
from reges_index.models.api_requests import Requests
from reges_index.models.chat_frame import ChatFrame
from reges_index.models.offers import offers_of
from reges_index.models.text import spoken
from reges_index.models.tracing import chat_ended, chat_started

if TYPE_CHECKING:  # torch and transformers are loaded where there is a local model, and only there
    from llama_index.core.callbacks import CallbackManager

    from reges_index.models.generation import Generation
    from reges_index.models.local_lm import LocalLM

logger = logging.getLogger(__name__)

__all__ = [
    "AUTO",
    "ApiBackend",
    "Backend",
    "LocalBackend",
    "chat_in_loop",
    "local_model_of",
    "resolve_backend",
    "text_of",
]

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
    manifest
        What the adapter says of itself; None without an adapter, and for a plain PEFT adapter.
    """

    adapter: str | None = None
    measure: TextMeasure
    manifest: AdapterManifest | None = None

    @property
    def inference_settings(self) -> Mapping[str, Any]:
        """What the adapter's manifest recommends (budgets, decoding); empty without one."""
        return self.manifest.inference if self.manifest is not None else {}

    def trained_template(self, hash_of: Callable[[PromptTemplate], str]) -> PromptTemplate | None:
        """Return the prompt that the adapter was trained with, where its manifest holds it whole.

        Parameters
        ----------
        hash_of
            Hash of a template, as manifests of this role keep it.
        """
        if self.manifest is None:
            return None
        template = PromptTemplate(self.manifest.prompt_template)
        return template if hash_of(template) == self.manifest.prompt_hash else None

    def check_prompt(self, prompt_hash: str, *, role: str) -> None:
        """Raise `AdapterError` if the adapter was trained for another role, or with another prompt.

        An adapter that knows the prompt word for word will do, whatever its role is called.
        """
        if self.manifest is not None and self.manifest.prompt_hash != prompt_hash:
            if self.manifest.role != role:
                raise AdapterError(
                    f"adapter {self.adapter!r} was trained as {self.manifest.role}, not as {role}",
                    hint=f"use it where a {self.manifest.role} belongs, or name another adapter",
                )
            raise AdapterError(
                f"adapter {self.adapter!r} was trained with prompt {self.manifest.prompt_hash}, "
                f"this prompt is {prompt_hash}",
                hint="use the default prompt, pass adapter=None, or train an adapter for your prompt",
            )

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the model."""

    @property
    @abstractmethod
    def context_window(self) -> int:
        """Most tokens that prompt and answer may have together."""

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
    """A model in this process, with one of its adapters or none.

    Parameters
    ----------
    manifest
        In place of the adapter's own.
    callbacks
        LlamaIndex's callbacks of the LLM that holds the model, which hear of each call.
    """

    def __init__(
        self,
        lm: LocalLM,
        adapter: str | None,
        manifest: AdapterManifest | None = None,
        callbacks: CallbackManager | None = None,
    ) -> None:
        self.lm = lm
        self.adapter = adapter
        self._callbacks = callbacks
        # As the model will read it: text that imitates a special token takes many tokens, not one.
        self.measure = HFMeasure(lm.tokenizer, prepare=ChatFrame(lm.tokenizer).break_up)
        self.manifest = manifest or (lm.manifest(adapter) if adapter is not None else None)

    @property
    def name(self) -> str:
        """Name of the base model."""
        return self.lm.name

    @property
    def context_window(self) -> int:
        """Most tokens of prompt and answer."""
        return self.lm.context_window

    def generate(self, prompts: Sequence[Sequence[ChatMessage]], **options: Any) -> list[list[str]]:
        """Return the answers to each prompt, decoded in batches."""
        results = self._generations(prompts, **options)
        return [[spoken(generation.text) for generation in own] for own in results]

    def _generations(
        self, prompts: Sequence[Sequence[ChatMessage]], **options: Any
    ) -> list[list[Generation]]:
        from reges_index.models.llm import chat_response

        for prompt in prompts:
            chat_started(prompt, model=self.name, adapter=self.adapter, options=options)
        results = self.lm.generate(prompts, adapter=self.adapter, **options)
        for prompt, own in zip(prompts, results, strict=True):
            for generation in own:
                chat_ended(prompt, chat_response(generation))
                self.tell(prompt, chat_response(generation))
        return results

    def tell(self, prompt: Sequence[ChatMessage], response: ChatResponse) -> None:
        """Tell LlamaIndex's callbacks, such as a token counter, what was asked and answered."""
        if self._callbacks is not None and self._callbacks.handlers:
            payload: dict[str, Any] = {EventPayload.MESSAGES: list(prompt)}
            with self._callbacks.event(CBEventType.LLM, payload=payload) as event:
                event.on_end(payload={**payload, EventPayload.RESPONSE: response})

    def score(self, prompt: Sequence[ChatMessage], choices: Sequence[str], start: str = "") -> list[Any]:
        """Return the score of each choice, see `LocalLM.score`, and tell the callbacks of the best one."""
        scores = self.lm.score(prompt, choices, adapter=self.adapter, answer_start=start)
        if self._callbacks is not None and self._callbacks.handlers:
            best = max(range(len(choices)), key=lambda index: scores[index].logprob)
            counts = {
                "prompt_tokens": len(self.lm.encode(prompt)),
                "completion_tokens": scores[best].num_tokens,
            }
            message = ChatMessage(role=MessageRole.ASSISTANT, content=choices[best])
            self.tell(prompt, ChatResponse(message=message, raw={"usage": counts}, additional_kwargs=counts))
        return scores

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
    manifest
        Of the adapter that the server runs, if it is one of ours: then lengths and temperature are what it
        recommends, where the LLM is of OpenAI's kind.

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

    def __init__(self, llm: LLM, manifest: AdapterManifest | None = None) -> None:
        self.llm = llm
        self.manifest = manifest
        self.adapter = manifest.name if manifest is not None else None
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

    def generate(self, prompts: Sequence[Sequence[ChatMessage]], **options: Any) -> list[list[str]]:
        """Return the answers to each prompt, one request after the other.

        Raises
        ------
        LLMServerError
            If a request gets no usable answer.
        """
        times = int(options.get("num_return_sequences", 1))
        told = self._told(options)
        return [[spoken(text_of(self.chat(prompt, **told))) for _ in range(times)] for prompt in prompts]

    async def agenerate(self, prompts: Sequence[Sequence[ChatMessage]], **options: Any) -> list[list[str]]:
        """Return the answers to each prompt; all requests are under way at once. See `generate`."""
        times = int(options.get("num_return_sequences", 1))
        told = self._told(options)
        tasks = [
            asyncio.ensure_future(self.achat(prompt, **told)) for prompt in prompts for _ in range(times)
        ]
        try:
            texts = [spoken(text_of(reply)) for reply in await asyncio.gather(*tasks)]
        finally:
            for task in tasks:  # gather leaves them, with their retries, when one of them fails
                task.cancel()
        return [texts[start : start + times] for start in range(0, len(texts), times)]

    def write(self, prompt: Sequence[ChatMessage], **options: Any) -> Work[str]:
        """Return the answer to one prompt as it was written; the LLM's own settings hold."""
        return text_of((yield from self.chat_plan(prompt, **self._told(options))))

    def _told(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the server is told of decoding: what an adapter of ours was meant to do."""
        if self.manifest is None or not is_openai_kind(self.llm):
            return {}
        names = {"max_new_tokens": "max_tokens", "temperature": "temperature", "stop": "stop"}
        return {names[name]: options[name] for name in names if options.get(name) is not None}

    @property
    def sender(self) -> LLM:
        """What is asked in the LLM's place, in the form that its server is known to take."""
        return self._as_set if self._offers.has(_AS_SET) else self._plain

    def chat_plan(self, prompt: Sequence[ChatMessage], **told: Any) -> Work[ChatResponse]:
        """Send one chat, with retries.

        Raises
        ------
        LLMServerError
            If it gets no usable answer.
        """
        reply: ChatResponse = yield from self.in_some_form(
            lambda llm: Do(lambda: llm.chat(list(prompt), **told), lambda: chat_in_loop(llm, prompt, **told))
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

    def chat(self, prompt: Sequence[ChatMessage], **told: Any) -> ChatResponse:
        """Do `chat_plan` in this thread."""
        return run(self.chat_plan(prompt, **told))

    async def achat(self, prompt: Sequence[ChatMessage], **told: Any) -> ChatResponse:
        """Do `chat_plan` without blocking the event loop."""
        return await arun(self.chat_plan(prompt, **told))


async def chat_in_loop(llm: LLM, prompt: Sequence[ChatMessage], **told: Any) -> ChatResponse:
    """Send one chat without blocking the event loop, whatever the LLM's ``achat`` does."""
    # CustomLLM's own achat calls chat() on the loop. Compared statically: every access wraps it anew.
    if getattr_static(type(llm), "achat") is getattr_static(CustomLLM, "achat"):
        return await asyncio.to_thread(llm.chat, list(prompt), **told)
    return await llm.achat(list(prompt), **told)


def text_of(reply: ChatResponse) -> str:
    """Return what a reply says; the empty string for one without text."""
    return str(reply.message.content or "")


# Roles of which it was said that a model has no adapter for them, by the model's name.
_said_bare: set[tuple[str, str]] = set()


def resolve_backend(
    llm: LLM | LocalLM | None,
    *,
    role: str,
    adapter: str | Path | None = AUTO,
    manifest: str | Path | None = None,
) -> Backend:
    """Find the back end behind what a user passed as ``llm``.

    Parameters
    ----------
    llm
        None stands for the embedded default with its shipped adapters.
    role
        The adapter that `AUTO` looks for.
    adapter
        The name of a loaded adapter, the folder of one, which is then loaded, None for the bare model, or
        `AUTO`. A `ReGeSLLM` that names an adapter keeps it under `AUTO`, and so does a model that was given
        with one adapter in it.
    manifest
        Folder with the manifest of an adapter that runs behind an API, or in a model that was given with it.

    Raises
    ------
    ConfigError
        If ``llm`` is no LLM, or an adapter is asked of a model that cannot hold one.
    AdapterError
        If a named adapter is not loaded, or there is no manifest in the folder.
    """
    if llm is None:
        from reges_index.models.local_lm import LocalLM

        llm = LocalLM.default()
    told = needs_manifest(manifest) if manifest is not None else None
    local = local_model_of(llm)
    if local is None:
        if not isinstance(llm, LLM):
            raise ConfigError(
                f"llm is a {type(llm).__name__}, which is no LLM",
                hint="pass a LocalLM, a LlamaIndex LLM, or None for the embedded model",
            )
        if adapter not in (AUTO, None):
            raise ConfigError(
                f"adapter={str(adapter)!r} needs a LocalLM; {type(llm).__name__} holds no adapters of ours",
                hint="behind a server, an adapter is the model of an LLM of its own: OpenAILike(model=...), "
                "and manifest=FOLDER says how it was trained",
            )
        return ApiBackend(llm, told)
    name = _adapter_name(local, llm, role, adapter)
    bare = name is None and adapter == AUTO and told is None and role in ROLES
    if bare and (local.name, role) not in _said_bare:
        _said_bare.add((local.name, role))
        logger.warning("%s has no adapter for the role %s: it runs as it is", local.name, role)
    return LocalBackend(local, name, told, getattr(llm, "callback_manager", None))


def local_model_of(llm: Any) -> LocalLM | None:
    """Return the model in this process behind an LLM; None where there is none."""
    # Asked by name, because the classes themselves bring torch along.
    if not {kind.__name__ for kind in type(llm).__mro__} & {"LocalLM", "ReGeSLLM", "HuggingFaceLLM"}:
        return None
    from reges_index.models.llm import wrap_llm
    from reges_index.models.local_lm import LocalLM

    return llm if isinstance(llm, LocalLM) else wrap_llm(llm)


def _adapter_name(local: LocalLM, llm: Any, role: str, adapter: str | Path | None) -> str | None:
    if adapter is None:
        return None
    if adapter == AUTO:
        own: str | None = getattr(llm, "adapter", None)
        return own or (role if local.has_adapter(role) else local.given_adapter)
    if isinstance(adapter, str) and local.has_adapter(adapter):
        return adapter
    folder = Path(adapter).expanduser()
    if isinstance(adapter, Path) or folder.is_dir() or "/" in adapter:
        return local.adapter_from(folder)
    raise AdapterError(
        f"no adapter {adapter!r} is loaded in {local.name}",
        hint=f"loaded: {', '.join(local.adapters) or 'none'}; load it with LocalLM.load_adapter, or name its "
        "folder",
    )
