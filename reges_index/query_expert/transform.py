"""`ReGeSQueryTransform`: a dialogue in, the refined query out (section 2.3)."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any, Literal

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.indices.query.query_transform.base import BaseQueryTransform
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.schema import QueryBundle
from llama_index_instrumentation import get_dispatcher

from reges_index.dialogue import DialogueQueryBundle, dialogue_of, newest_text, one_line, to_messages
from reges_index.dialogue.wording import MOVIES, Domain
from reges_index.errors import ConfigError, LLMServerError
from reges_index.models.api_requests import Tally, tallied
from reges_index.models.backend import AUTO, ApiBackend, Backend, resolve_backend
from reges_index.models.local_lm import LocalLM
from reges_index.models.tracing import span
from reges_index.query_expert.cleaning import clean_query
from reges_index.query_expert.decoding import QueryDecoding, advised_decoding
from reges_index.query_expert.events import QueryWrittenEvent
from reges_index.query_expert.prompt import (
    DEFAULT_QUERY_TMPL,
    QueryPrompt,
    build_query_prompt,
    query_prompt_hash,
)

__all__ = ["QueryDecoding", "ReGeSQueryTransform", "clean_query"]

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
        Name of the adapter in a `LocalLM`. The default takes ``query-expert`` where it is loaded; None
        runs the bare model.
    query_prompt
        Template with the slot ``{conversation_history}``; also by ``update_prompts({"query_prompt": ...})``.
    domain
        What an item is called in the prompt, movies by default.
    max_history_tokens
        Budget of the dialogue's text; older messages are cut and counted. By default what the adapter was
        trained with, else 1,024, and never more than the model's context leaves.
    decoding
        See `QueryDecoding`. By default what the adapter recommends.
    on_error
        What to do when the server behind the model gives no answer, after all retries (down, too slow, wrong
        key, nonsense): "raise" an `LLMServerError`, or "last_message" to search with the seeker's last
        message and say so in the report and the log.
    verbose
        Log the query at INFO.
    """

    def __init__(
        self,
        llm: LLM | LocalLM | None = None,
        *,
        adapter: str | None = AUTO,
        query_prompt: BasePromptTemplate | str | None = None,
        domain: Domain = MOVIES,
        max_history_tokens: int | None = None,
        decoding: QueryDecoding | None = None,
        on_error: Literal["raise", "last_message"] = "raise",
        verbose: bool = False,
    ) -> None:
        super().__init__()
        if on_error not in ("raise", "last_message"):
            raise ConfigError(f"on_error={on_error!r} is unknown", hint="use raise or last_message")
        if max_history_tokens is not None and max_history_tokens < 1:
            raise ConfigError(f"max_history_tokens={max_history_tokens} leaves nothing of a dialogue")
        self._backend: Backend = resolve_backend(llm, role=ROLE, adapter=adapter)
        self._prompt = _as_template(query_prompt or DEFAULT_QUERY_TMPL)
        self._backend.check_prompt(query_prompt_hash(self._prompt), role=ROLE)
        self.domain = domain
        self._max_history_tokens = max_history_tokens
        advice = self._backend.inference_settings
        self.decoding = decoding or advised_decoding(advice.get("decoding", {}), self._backend.adapter)
        self._trained_history: int | None = advice.get("max_history_tokens")
        self.on_error = on_error
        self.verbose = verbose

    @classmethod
    def from_defaults(cls, llm: LLM | LocalLM | None = None, **kwargs: Any) -> ReGeSQueryTransform:
        """Build with the embedded model when ``llm`` is None; see the class for the arguments."""
        return cls(llm, **kwargs)

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
    def history_limit(self) -> int | None:
        """The budget of the dialogue's text that was asked for; None where nothing was."""
        return self._max_history_tokens

    @property
    def max_history_tokens(self) -> int:
        """The dialogue's token budget that is in force."""
        wanted = self._max_history_tokens or self._trained_history or 1024
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
        return self.run_batch([query_bundle])[0]

    @span
    async def arun(self, query_bundle_or_str: QueryBundle | str) -> DialogueQueryBundle:
        """Transform without blocking the event loop."""
        bundle = _as_bundle(query_bundle_or_str)
        prompt = await asyncio.to_thread(self.build_prompt, bundle)  # long dialogues take a while to tokenize
        with tallied() as sent:
            try:
                texts: list[str] = []
                for kwargs in self.decoding.passes():
                    texts += (await self._backend.agenerate([prompt.messages], **kwargs))[0]
                written = _Written(texts, sent)
            except LLMServerError as error:
                written = self._unwritten(error, sent)
        return await asyncio.to_thread(self._finish, bundle, prompt, written)

    @span
    def run_batch(self, bundles: list[QueryBundle]) -> list[DialogueQueryBundle]:
        """Transform many bundles at once; local models decode them in batches."""
        prompts = [self.build_prompt(bundle) for bundle in bundles]
        if isinstance(self._backend, ApiBackend):  # one request after the other anyway, and each may fail
            written = [self._asked(prompt) for prompt in prompts]
        else:
            written = [_Written(texts) for texts in self._decoded(prompts)]
        return [self._finish(b, p, w) for b, p, w in zip(bundles, prompts, written, strict=True)]

    def _decoded(self, prompts: list[QueryPrompt]) -> list[list[str]]:
        texts: list[list[str]] = [[] for _ in prompts]
        for kwargs in self.decoding.passes():
            for own, new in zip(
                texts, self._backend.generate([p.messages for p in prompts], **kwargs), strict=True
            ):
                own += new
        return texts

    def _asked(self, prompt: QueryPrompt) -> _Written:
        with tallied() as sent:
            try:
                return _Written(self._decoded([prompt])[0], sent)
            except LLMServerError as error:
                return self._unwritten(error, sent)

    def _unwritten(self, error: LLMServerError, sent: Tally) -> _Written:
        if self.on_error == "raise":
            raise error
        logger.warning("no query was written: %s", error.message)
        return _Written([], sent, error)

    def _finish(self, bundle: QueryBundle, prompt: QueryPrompt, written: _Written) -> DialogueQueryBundle:
        dialogue, texts = dialogue_of(bundle), written.texts
        queries = list(dict.fromkeys(query for query in map(clean_query, texts) if query))
        fallback = not queries
        if fallback:
            queries = [self._spoken(_last_words(dialogue))]
            logger.warning("there is no query; searching with the seeker's last message instead")
        if self.decoding.context_messages:
            queries.append(self._spoken(newest_text(dialogue, self.decoding.context_messages)))
        if self.verbose:
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
        carrier = (
            bundle
            if isinstance(bundle, DialogueQueryBundle)
            else DialogueQueryBundle(query_str=bundle.query_str, messages=dialogue)
        )
        return carrier.refined(kept, report)

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


def _as_bundle(query: QueryBundle | str) -> QueryBundle:
    return DialogueQueryBundle.from_dialogue(query) if isinstance(query, str) else query


def _as_template(prompt: BasePromptTemplate | str) -> PromptTemplate:
    template = PromptTemplate(prompt) if isinstance(prompt, str) else prompt
    if not isinstance(template, PromptTemplate) or "{conversation_history}" not in template.template:
        raise ConfigError(
            "query_prompt has no slot {conversation_history}",
            hint="the dialogue is filled in there; see DEFAULT_QUERY_TMPL",
        )
    return template
