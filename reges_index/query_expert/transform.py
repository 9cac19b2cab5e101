"""`ReGeSQueryTransform`: a dialogue in, the refined query out (section 2.3)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.indices.query.query_transform.base import BaseQueryTransform
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.schema import QueryBundle
from llama_index_instrumentation import get_dispatcher

from reges_index.dialogue import DialogueQueryBundle, dialogue_of, newest_text, one_line, to_messages
from reges_index.dialogue.wording import MOVIES, Domain
from reges_index.driver import Work, arun, off_loop, run
from reges_index.errors import AdapterError, ConfigError, LLMServerError
from reges_index.models.api import Tally, tallied
from reges_index.models.backend import AUTO, ApiBackend, Backend, resolve_backend, span
from reges_index.query_expert.cleaning import clean_query
from reges_index.query_expert.events import QueryWrittenEvent
from reges_index.query_expert.prompt import (
    DEFAULT_QUERY_TMPL,
    QueryPrompt,
    build_query_prompt,
    query_prompt_hash,
)
from reges_index.settings import QueryDecoding, QueryOptions, QuerySettings

if TYPE_CHECKING:
    from llama_index.core.llms.llm import LLM

    from reges_index.models.local_lm import LocalLM

logger = logging.getLogger(__name__)
dispatcher = get_dispatcher(__name__)

ROLE = "query-expert"
# Tokens of what is embedded as it was spoken; encoders cut behind about as many and would lose the end.
_SPOKEN_TOKENS = 256


@dataclass(frozen=True)
class _Written:
    """What the model wrote for one dialogue, what that took, and the error if nothing came."""

    texts: list[str]
    sent: Tally = field(default_factory=Tally)
    error: LLMServerError | None = None


class ReGeSQueryTransform(BaseQueryTransform):
    """Turn the dialogue in a query bundle into a refined search query.

    With the query-expert adapter this is the paper's LLM_QR; without one it is its *Direct Prompt*
    (section 3.5). The result is a `DialogueQueryBundle` whose query string and embedding strings are the
    refined query, with the dialogue still in ``messages`` for the components behind it.

    Parameters
    ----------
    llm
        A `LocalLM`, a `ReGeSLLM`, a ``HuggingFaceLLM`` or any other LlamaIndex LLM. None takes the
        embedded default; LlamaIndex's global ``Settings.llm`` is never asked.
    adapter
        Name of the adapter in a `LocalLM`, or the folder of one. The default takes ``query-expert`` where it
        is loaded, else the adapter that the model was given with; None runs the bare model.
    manifest
        Folder of the adapter that the server behind ``llm`` runs (vLLM, LoRAX): budgets, prompt and decoding
        are then what it was trained with.
    settings, options
        `QuerySettings`, and its fields as keywords, which go before it. The prompt may be a template; it can
        also be changed by ``update_prompts({"query_prompt": ...})``.

    Raises
    ------
    ConfigError
        If there is no such option, or its value cannot be.
    AdapterError
        If the adapter is not loaded, or was trained for another role or prompt.
    """

    def __init__(
        self,
        llm: LLM | LocalLM | None = None,
        *,
        adapter: str | Path | None = AUTO,
        manifest: str | Path | None = None,
        settings: QuerySettings | None = None,
        **options: Unpack[QueryOptions],
    ) -> None:
        super().__init__()
        self._settings = QuerySettings.of(settings, options, where="ReGeSQueryTransform")
        self._backend: Backend = resolve_backend(llm, role=ROLE, adapter=adapter, manifest=manifest)
        given = options.get("query_prompt") or self._settings.query_prompt
        trained = self._backend.trained_template(query_prompt_hash)
        self._prompt = _as_template(given or trained or DEFAULT_QUERY_TMPL)
        self._backend.check_prompt(query_prompt_hash(self._prompt), role=ROLE)
        self.domain: Domain = self._settings.domain or MOVIES
        advice = self._backend.inference_settings
        self.decoding = self._settings.decoding or self._advised(advice.get("decoding", {}))
        self._trained_history: int | None = advice.get("max_history_tokens")

    def _advised(self, options: Any) -> QueryDecoding:
        try:
            return QueryDecoding.parse(options)
        except ConfigError as error:
            raise AdapterError(
                f"adapter {self._backend.adapter!r} recommends decoding that this version does not know: "
                f"{error.message}",
                hint="pass decoding=QueryDecoding(...), or update reges-index",
            ) from error

    @property
    def settings(self) -> QuerySettings:
        """The settings in force, with the prompt as it is now."""
        text = None if self._prompt.template == DEFAULT_QUERY_TMPL.template else self._prompt.template
        return self._settings.override(query_prompt=text, domain=self.domain)

    # -- prompts -----------------------------------------------------------------------------------

    def _get_prompts(self) -> PromptDictType:
        return {"query_prompt": self._prompt}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        if "query_prompt" in prompts:
            template = _as_template(prompts["query_prompt"])
            self._backend.check_prompt(query_prompt_hash(template), role=ROLE)
            self._prompt = template

    @property
    def backend(self) -> Backend:
        """The model that writes the queries, with the adapter that it uses."""
        return self._backend

    @property
    def max_history_tokens(self) -> int:
        """The dialogue's token budget that is in force."""
        wanted = self._settings.max_history_tokens or self._trained_history or 1024
        frame = self._backend.measure.count(self._prompt.template) + 64
        return max(16, min(wanted, self._backend.context_window - frame - self.decoding.max_new_tokens))

    def build_prompt(self, bundle: QueryBundle) -> QueryPrompt:
        """Return the prompt that would be sent for this bundle.

        Raises
        ------
        InputError
            If nothing was said in the dialogue.
        """
        return build_query_prompt(
            to_messages(dialogue_of(bundle)),
            template=self._prompt,
            domain=self.domain,
            max_history_tokens=self.max_history_tokens,
            measure=self._backend.measure,
        )

    # -- running -----------------------------------------------------------------------------------

    def _run(self, query_bundle: QueryBundle, metadata: dict[str, Any]) -> DialogueQueryBundle:  # noqa: ARG002
        return run(self.writing(query_bundle))

    @span
    async def arun(self, query_bundle_or_str: QueryBundle | str) -> DialogueQueryBundle:
        """Transform without blocking the event loop."""
        return await arun(self.writing(DialogueQueryBundle.from_dialogue(query_bundle_or_str)))

    @span
    def run_batch(self, bundles: Sequence[QueryBundle]) -> list[DialogueQueryBundle]:
        """Transform many bundles at once; local models decode them in batches."""
        if isinstance(self._backend, ApiBackend):  # one request after the other anyway, and each may fail
            return [run(self.writing(bundle)) for bundle in bundles]
        prompts = [self.build_prompt(bundle) for bundle in bundles]
        written = run(self._asking(prompts))
        return [self._finish(b, p, w) for b, p, w in zip(bundles, prompts, written, strict=True)]

    def writing(self, bundle: QueryBundle) -> Work[DialogueQueryBundle]:
        """Do the work of one bundle, for `reges_index.driver`."""
        # Off the loop: long dialogues take a while to tokenize.
        prompt = yield off_loop(self.build_prompt, bundle)
        (written,) = yield from self._asking([prompt])
        refined: DialogueQueryBundle = yield off_loop(self._finish, bundle, prompt, written)
        return refined

    def _asking(self, prompts: Sequence[QueryPrompt]) -> Work[list[_Written]]:
        messages = [prompt.messages for prompt in prompts]
        texts: list[list[str]] = [[] for _ in prompts]
        with tallied() as sent:
            try:
                for options in self.decoding.passes():
                    made = yield from self._backend.said(messages, **options)
                    for own, new in zip(texts, made, strict=True):
                        own += new
            except LLMServerError as error:
                if self._settings.on_error == "raise":
                    raise
                logger.warning("no query was written: %s", error.message)
                return [_Written([], sent, error) for _ in prompts]
        return [_Written(own, sent) for own in texts]

    def _finish(self, bundle: QueryBundle, prompt: QueryPrompt, written: _Written) -> DialogueQueryBundle:
        dialogue, texts = dialogue_of(bundle), written.texts
        queries = list(dict.fromkeys(query for query in map(clean_query, texts) if query))
        fallback = not queries
        if fallback:
            queries = [self._spoken(_last_words(dialogue))]
            logger.warning("there is no query; searching with the seeker's last message instead")
        if self.decoding.context_messages:
            queries.append(self._spoken(newest_text(dialogue, self.decoding.context_messages)))
        if self._settings.verbose:
            logger.info("query: %s", queries[0])
        report = {
            "query": {
                "messages_dropped": prompt.history.dropped,
                "message_shortened": prompt.history.shortened,
                "history_tokens": prompt.history.tokens,
                "fallback": fallback,
                "adapter": self._backend.adapter,
                "requests": written.sent.requests,
                "retries": written.sent.retries,
                "error": written.error.kind if written.error is not None else None,
            }
        }
        kept = [query for query in queries if query]
        self._announce(prompt, texts, kept, fallback)
        return DialogueQueryBundle.from_dialogue(bundle).refined(kept, report)

    def _announce(self, prompt: QueryPrompt, texts: list[str], queries: list[str], fallback: bool) -> None:
        count = self._backend.measure.count
        dispatcher.event(
            QueryWrittenEvent(
                model=self._backend.name,
                adapter=self._backend.adapter,
                messages=list(prompt.messages),
                prompt_tokens=sum(count(message.content or "") for message in prompt.messages),
                history_tokens=prompt.history.tokens,
                answers=texts,
                answer_tokens=[count(text) for text in texts],
                queries=queries,
                fallback=fallback,
            )
        )

    def _spoken(self, text: str) -> str:
        return self._backend.measure.tail(text, _SPOKEN_TOKENS).strip()


def _last_words(dialogue: tuple[ChatMessage, ...]) -> str:
    spoken = [one_line(m.content or "") for m in dialogue if m.role == MessageRole.USER]
    spoken = spoken or [one_line(m.content or "") for m in dialogue]
    return next(text for text in (*reversed(spoken), "recommendation") if text)


def _as_template(prompt: BasePromptTemplate | str) -> PromptTemplate:
    template = PromptTemplate(prompt) if isinstance(prompt, str) else prompt
    if not isinstance(template, PromptTemplate) or "{conversation_history}" not in template.template:
        raise ConfigError(
            "query_prompt has no slot {conversation_history}",
            hint="the dialogue is filled in there; see DEFAULT_QUERY_TMPL",
        )
    return template
