"""One way to ask a model, whichever it is: a `LocalLM` with adapters, or any LlamaIndex LLM."""

from __future__ import annotations

import asyncio
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import getattr_static
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.instrumentation.events.llm import LLMChatEndEvent, LLMChatStartEvent
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import PromptTemplate
from llama_index_instrumentation import get_dispatcher

from reges_index.dialogue.measure import HFMeasure, TextMeasure, default_measure
from reges_index.driver import Do, Work, off_loop, together
from reges_index.errors import AdapterError, ConfigError, LLMServerError
from reges_index.models.adapters import ROLES, AdapterManifest, needs_manifest
from reges_index.models.api import (
    Arrival,
    UnfitAnswer,
    counted,
    hint_of,
    is_mistake,
    is_openai_kind,
    is_refused,
    is_unreadable,
    offers_of,
    policy_of,
    single_attempt,
)
from reges_index.models.chat_frame import ChatFrame
from reges_index.models.text import spoken
from reges_index.remote import (
    Attempts,
    http_status,
    is_transient,
    safe_cause,
    server_address,
    server_error,
)

if TYPE_CHECKING:  # torch and transformers are loaded where there is a local model, and only there
    from llama_index.core.callbacks import CallbackManager

    from reges_index.models.local_lm import LocalLM

logger = logging.getLogger(__name__)
dispatcher = get_dispatcher(__name__)

F = TypeVar("F", bound=Callable[..., Any])

# The default of every ``adapter`` argument: the adapter of the component's role, where it is loaded.
AUTO = "auto"
# The form of a request that has all of the LLM's settings in it, see `ApiBackend.in_some_form`.
_AS_SET = "as set"
# What reading a model's text raises where that is not what was asked for.
_UNFIT = (ValueError, LookupError, AssertionError)
# The same of classes that are not of OpenAI's kind, whose answers nobody has checked.
_UNFIT_OR_UNREADABLE = (*_UNFIT, TypeError, AttributeError)


def span(method: F) -> F:
    """Make a span of each call; LlamaIndex's own decorator, which forgets the signature."""
    return cast(F, get_dispatcher(method.__module__).span(method))


class Backend(ABC):
    """What the two experts need of a model.

    Attributes
    ----------
    name
        Of the model.
    context_window
        Most tokens that prompt and answer may have together.
    adapter
        Name of the LoRA adapter in use; None for the bare model.
    measure
        Counts tokens as the model does (API models: approximately).
    manifest
        What the adapter says of itself; None without an adapter, and for a plain PEFT adapter.
    """

    name: str
    context_window: int
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
            self.manifest.check_use(role=role, prompt_hash=prompt_hash, called=f"adapter {self.adapter!r}")

    @abstractmethod
    def written(self, prompts: Sequence[Sequence[ChatMessage]], **options: Any) -> Work[list[list[str]]]:
        """Return the answers to each prompt as they were written; options as in `LocalLM.generate`.

        Raises
        ------
        LLMServerError
            If a request to a server gets no usable answer.
        """

    def said(self, prompts: Sequence[Sequence[ChatMessage]], **options: Any) -> Work[list[list[str]]]:
        """Return `written` without the model's thoughts and what it puts around its answers."""
        found = yield from self.written(prompts, **options)
        return [[spoken(text) for text in own] for own in found]


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
        self.name, self.context_window = lm.name, lm.context_window
        self.adapter = adapter
        self._callbacks = callbacks
        # As the model will read it: text that imitates a special token takes many tokens, not one.
        self.measure = HFMeasure(lm.tokenizer, prepare=ChatFrame(lm.tokenizer).break_up)
        self.manifest = manifest or (lm.manifest(adapter) if adapter is not None else None)

    def written(self, prompts: Sequence[Sequence[ChatMessage]], **options: Any) -> Work[list[list[str]]]:
        """Return the answers to each prompt, decoded in batches."""
        from reges_index.models.llm import chat_response

        for prompt in prompts:
            self.asked(prompt, options)
        found = yield off_loop(self.lm.generate, prompts, adapter=self.adapter, **options)
        for prompt, own in zip(prompts, found, strict=True):
            for generation in own:
                self.answered(prompt, chat_response(generation))
        return [[generation.text for generation in own] for own in found]

    def asked(self, prompt: Sequence[ChatMessage], options: Mapping[str, Any]) -> None:
        """Tell LlamaIndex's instrumentation that the model is about to answer, with these options."""
        model = {"model": self.name, "adapter": self.adapter, "class_name": "LocalLM"}
        dispatcher.event(
            LLMChatStartEvent(messages=list(prompt), additional_kwargs=dict(options), model_dict=model)
        )

    def answered(self, prompt: Sequence[ChatMessage], response: ChatResponse) -> None:
        """Tell LlamaIndex's instrumentation and its callbacks, such as a token counter, what it answered."""
        dispatcher.event(LLMChatEndEvent(messages=list(prompt), response=response))
        self.tell(prompt, response)

    def tell(self, prompt: Sequence[ChatMessage], response: ChatResponse) -> None:
        """Tell the callbacks what was asked and answered."""
        if self._callbacks is not None and self._callbacks.handlers:
            payload: dict[str, Any] = {EventPayload.MESSAGES: list(prompt)}
            with self._callbacks.event(CBEventType.LLM, payload=payload) as event:
                event.on_end(payload={**payload, EventPayload.RESPONSE: response})

    def score(self, prompt: Sequence[ChatMessage], choices: Sequence[str], start: str = "") -> list[Any]:
        """Return the score of each choice, see `LocalLM.score`, and tell the callbacks of the best one."""
        scores = self.lm.score(prompt, choices, adapter=self.adapter, answer_start=start)
        if self._callbacks is not None and self._callbacks.handlers:
            from reges_index.models.generation import Generation
            from reges_index.models.llm import chat_response

            best = max(range(len(choices)), key=lambda index: scores[index].logprob)
            read, written = len(self.lm.encode(prompt)), scores[best].num_tokens
            self.tell(prompt, chat_response(Generation(choices[best], read, written, "stop")))
        return scores


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
    folder
        Where the manifest is from.

    Attributes
    ----------
    llm
        The same object.
    offers
        What its server has turned out not to offer.
    policy
        How often requests are repeated.

    Raises
    ------
    ConfigError
        If the LLM does not know its own model, as LlamaIndex's ``OpenAI`` with another server's model name.
    """

    def __init__(
        self, llm: LLM, manifest: AdapterManifest | None = None, folder: str | Path | None = None
    ) -> None:
        self.llm = llm
        self.manifest = manifest
        self.manifest_folder = folder
        self.adapter = manifest.name if manifest is not None else None
        self._openai_kind = is_openai_kind(llm)
        # LLMs of OpenAI's kind are copied, since they would retry by themselves.
        self._as_set = single_attempt(llm)
        self._plain = single_attempt(llm, plain=True) if self._openai_kind else self._as_set
        self.policy = policy_of(llm)
        self.offers = offers_of(llm)
        self.measure = default_measure()
        try:
            metadata = llm.metadata  # a property that looks the model's name up
        except ValueError as error:
            raise ConfigError(
                f"{type(llm).__name__} does not know this model: {str(error)[:160]}",
                hint="for models of other servers take OpenAILike, which is told what the model can do",
            ) from error
        self.name, self.context_window = str(metadata.model_name), int(metadata.context_window)

    def written(self, prompts: Sequence[Sequence[ChatMessage]], **options: Any) -> Work[list[list[str]]]:
        """Return the answers to each prompt: in an event loop all requests are under way at once."""
        times, told = int(options.get("num_return_sequences", 1)), self._told(options)
        asked = [partial(self._answer, prompt, told) for prompt in prompts for _ in range(times)]
        texts = yield from together(asked)
        return [texts[start : start + times] for start in range(0, len(texts), times)]

    def _answer(self, prompt: Sequence[ChatMessage], told: Mapping[str, Any]) -> Work[str]:
        reply = yield from self.in_some_form(
            lambda llm: Do(lambda: llm.chat(list(prompt), **told), lambda: chat_in_loop(llm, prompt, **told))
        )
        return str(reply.message.content or "")

    def _told(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the server is told of decoding: what an adapter of ours was meant to do."""
        if self.manifest is None or not self._openai_kind:
            return {}
        names = {"max_new_tokens": "max_tokens", "temperature": "temperature", "stop": "stop"}
        return {names[name]: options[name] for name in names if options.get(name) is not None}

    @property
    def sender(self) -> LLM:
        """What is asked in the LLM's place, in the form that its server is known to take."""
        return self._as_set if self.offers.has(_AS_SET) else self._plain

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
            return (yield from self.sending(ask(self.sender)))
        except LLMServerError as error:
            if not is_refused(error) or self.sender is self._plain:
                raise
            refused = error
        try:
            reply = yield from self.sending(ask(self._plain))
        except LLMServerError as error:
            raise (refused if is_refused(error) else error) from None
        self.offers.failed(_AS_SET)
        return reply

    def sending(self, ask: Do, *, parses: bool = False) -> Work[Any]:
        """Ask, and again where that may help; return what came.

        Parameters
        ----------
        ask
            Sends one request and returns what came.
        parses
            Whether ``ask`` also reads what the *model* wrote, so that a ValueError and the like may be about
            that.

        Raises
        ------
        LLMServerError
            If no usable answer came.
        UnfitAnswer
            With ``parses``, if what came is not what was asked for.
        Exception
            Errors of other kinds as they are: those of an LLM class of your own, and those of the program
            (`is_mistake`), at once.
        """
        arrival = Arrival()
        may_pass = partial(self._may_pass, parses=parses)
        attempts = Attempts(self.policy, may_pass, server_address(self.llm))
        try:
            return (yield from attempts.plan(counted(ask, arrival, attempts)))
        except Exception as error:  # whatever a client raises; what it means is found out here
            failure: Exception | None = self.explain(error, attempts=attempts.made, parses=parses)
            unfit = _UNFIT if self._openai_kind else _UNFIT_OR_UNREADABLE
            answered = arrival.answered or not self._openai_kind
            if failure is None and parses and answered and isinstance(error, (UnfitAnswer, *unfit)):
                failure = UnfitAnswer(type(error).__name__)
                failure.__cause__ = safe_cause(error, self.llm)
            if failure is None:
                raise
        raise failure  # outside of the except block, or the error that may hold the key would be its context

    def explain(self, error: Exception, *, attempts: int = 1, parses: bool = False) -> LLMServerError | None:
        """Return what a client's error says of the server, without the key; None if it is about neither.

        Parameters
        ----------
        attempts, parses
            As in `sending`.
        """
        if isinstance(error, LLMServerError):
            return error
        if not self._may_pass(error, parses) and http_status(error) is None:
            return None
        name = str(getattr(self.llm, "model", "") or type(self.llm).__name__)
        where = server_address(self.llm)
        return server_error(
            LLMServerError, error, self.llm,
            what=f"{name} at {where} gave no answer",
            hint=hint_of(error, name, where, self.policy.longest_wait_s),
            attempts=attempts,
        )  # fmt: skip

    def _may_pass(self, error: Exception, parses: bool) -> bool:
        return is_transient(error) or (self._openai_kind and not parses and is_unreadable(error))

    def is_mistake(self, error: Exception) -> bool:
        """Say whether an error is surely one of the program: of OpenAI's kind, and no server's doing."""
        return self._openai_kind and is_mistake(error)


async def chat_in_loop(llm: LLM, prompt: Sequence[ChatMessage], **told: Any) -> ChatResponse:
    """Send one chat without blocking the event loop, whatever the LLM's ``achat`` does."""
    # CustomLLM's own achat calls chat() on the loop. Compared statically: every access wraps it anew.
    if getattr_static(type(llm), "achat") is getattr_static(CustomLLM, "achat"):
        return await asyncio.to_thread(llm.chat, list(prompt), **told)
    return await llm.achat(list(prompt), **told)


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
    local = wrap_llm(llm)
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
        return ApiBackend(llm, told, manifest)
    name = _adapter_name(local, llm, role, adapter)
    bare = name is None and adapter == AUTO and told is None and role in ROLES
    if bare and (local.name, role) not in _said_bare:
        _said_bare.add((local.name, role))
        logger.warning("%s has no adapter for the role %s: it runs as it is", local.name, role)
    return LocalBackend(local, name, told, getattr(llm, "callback_manager", None))


# Two LocalLMs over one model would be two locks, and adapters switched under each other's feet.
_wrapping = threading.Lock()


def wrap_llm(llm: Any) -> LocalLM | None:
    """Return the model in this process behind an LLM; None where there is none.

    Parameters
    ----------
    llm
        A `LocalLM`, a `ReGeSLLM`, a LlamaIndex ``HuggingFaceLLM`` (its model and tokenizer are used as they
        are, no second copy), or anything else.

    Returns
    -------
    LocalLM or None
        For one ``HuggingFaceLLM`` always the same object, for as long as the ``llm`` lives. Its lock does
        not cover calls made to the ``HuggingFaceLLM`` itself.
    """
    # Asked by name, because the classes themselves bring torch along, and need not be installed.
    kinds = {kind.__name__ for kind in type(llm).__mro__}
    if "LocalLM" in kinds:
        return cast("LocalLM", llm)
    if "ReGeSLLM" in kinds:
        return cast("LocalLM", llm.local_lm)
    if "HuggingFaceLLM" not in kinds or llm._model is None or llm._tokenizer is None:
        return None
    from reges_index.models.local_lm import LocalLM

    model, tokenizer = llm._model, llm._tokenizer
    with _wrapping:
        known = getattr(model, "_reges_local_lm", None)
        if isinstance(known, LocalLM) and known.tokenizer is tokenizer:
            return known
        # A HuggingFaceLLM made from a model object keeps its default name, which says nothing.
        local = LocalLM(model, tokenizer, name=str(getattr(model, "name_or_path", "")) or llm.model_name)
        # Kept on the model, so that it lives exactly as long. A LocalLM is no nn.Module: nothing registers.
        model._reges_local_lm = local
        return local


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
