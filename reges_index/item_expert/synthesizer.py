"""`ReGeSSynthesizer`: the first of the ranked nodes becomes the answer."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.base.response.schema import (
    RESPONSE_TYPE,
    AsyncStreamingResponse,
    Response,
    StreamingResponse,
)
from llama_index.core.callbacks import CallbackManager
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.instrumentation.events.synthesis import SynthesizeEndEvent, SynthesizeStartEvent
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.response_synthesizers import BaseSynthesizer
from llama_index.core.schema import NodeWithScore, QueryBundle, QueryType
from llama_index_instrumentation import get_dispatcher

from reges_index.catalog.item import Item
from reges_index.dialogue import dialogue_of, one_line, render_history
from reges_index.errors import ConfigError, LLMServerError
from reges_index.item_expert.ranking import item_of, response_metadata
from reges_index.models.api_requests import Tally, tallied
from reges_index.models.backend import Backend, resolve_backend
from reges_index.settings import AnswerSettings

if TYPE_CHECKING:
    from reges_index.models.local_lm import LocalLM

__all__ = ["DEFAULT_SENTENCE_TMPL", "ReGeSSynthesizer", "answer_title"]

logger = logging.getLogger(__name__)
dispatcher = get_dispatcher(__name__)

NOTHING_TO_RECOMMEND = "Nothing in the catalog fits: no candidate is left to recommend."

DEFAULT_SENTENCE_TMPL = PromptTemplate(
    "Conversation between a seeker and a recommender:\n{conversation_history}\n\n"
    "The recommender has chosen: {item}\n\n"
    "In one short sentence, tell the seeker why it fits what they asked for."
)


def answer_title(item: Item) -> str:
    """Return the title of an item as an answer: on one line, with the year where it is known."""
    title = one_line(item.title)
    year = f"({item.year})"
    return title if item.year is None or title.endswith(year) else f"{title} {year}"


@dataclass(frozen=True)
class _Sentence:
    """What the model wrote, what that took, and the error if nothing came."""

    text: str | None
    sent: Tally = field(default_factory=Tally)
    error: LLMServerError | None = None

    @property
    def report(self) -> dict[str, Any]:
        """What the response's report says of it."""
        error = self.error.kind if self.error is not None else None
        return {"requests": self.sent.requests, "retries": self.sent.retries, "error": error}


class ReGeSSynthesizer(BaseSynthesizer):
    """Answer with the best-ranked item.

    Parameters
    ----------
    llm
        Only asked for ``style="sentence"``; None takes the embedded default then.
    style
        "title": the title alone, as in the paper. "sentence": the title and year, then one sentence by
        the LLM on why it fits. The item itself is never the LLM's doing, so it is always in the catalog.
    streaming
        Return a `StreamingResponse`.
    on_error
        What to do when the server behind the LLM gives no answer, after all retries (down, too slow, wrong
        key, nonsense): "raise" an `LLMServerError`, or "title" to answer as with ``style="title"`` and say
        so in the report and the log. The item has been chosen by then, and stays.
    sentence_prompt
        Template with the slots ``{conversation_history}`` and ``{item}``; also by ``update_prompts``.

    Notes
    -----
    ``response.metadata`` has ``item_id``, ``title``, ``probability``, ``query`` (the refined one, where
    the bundle carries it), ``candidates`` (id, title, probability, retrieval_score, rank), ``reasoning``
    (what the item expert wrote before it chose; None without chain of thought) and ``report``, which says
    under ``answer`` what the sentence took: ``requests``, ``retries``, ``error`` (None where it was written).
    """

    def __init__(
        self,
        llm: LLM | LocalLM | None = None,
        *,
        style: Literal["title", "sentence"] = "title",
        streaming: bool = False,
        on_error: Literal["raise", "title"] = "raise",
        sentence_prompt: PromptTemplate | str | None = None,
        callback_manager: CallbackManager | None = None,
        empty_response: str = NOTHING_TO_RECOMMEND,
    ) -> None:
        # Not super().__init__(): it resolves Settings.llm, which reaches for OpenAI, and titles need no LLM.
        if style not in ("title", "sentence"):
            raise ConfigError(f"style={style!r} is unknown", hint="use title or sentence")
        if on_error not in ("raise", "title"):
            raise ConfigError(f"on_error={on_error!r} is unknown", hint="use raise or title")
        self.style = style
        self.on_error = on_error
        self._backend: Backend | None = (
            resolve_backend(llm, role="synthesizer") if style == "sentence" else None
        )
        self._callback_manager = callback_manager or CallbackManager([])
        self._streaming = streaming
        self._empty_response = empty_response
        prompt = PromptTemplate(sentence_prompt) if isinstance(sentence_prompt, str) else sentence_prompt
        self._sentence_prompt = prompt or DEFAULT_SENTENCE_TMPL

    @property
    def backend(self) -> Backend | None:
        """The model that writes the sentence; None where the title is all."""
        return self._backend

    @property
    def settings(self) -> AnswerSettings:
        """The options in force as plain values, with the prompt as it is now."""
        text, empty = self._sentence_prompt.template, self._empty_response
        return AnswerSettings(
            style=self.style,
            streaming=self._streaming,
            sentence_prompt=None if text == DEFAULT_SENTENCE_TMPL.template else text,
            empty_response=None if empty == NOTHING_TO_RECOMMEND else empty,
            on_error=self.on_error,
        )

    @property
    def streaming(self) -> bool:
        """Whether answers come as streams."""
        return self._streaming

    @property
    def empty_response(self) -> str:
        """The answer when there is nothing to recommend."""
        return self._empty_response

    @property
    def callback_manager(self) -> CallbackManager:
        """The callback manager."""
        return self._callback_manager

    @callback_manager.setter
    def callback_manager(self, callback_manager: CallbackManager) -> None:
        self._callback_manager = callback_manager

    def _get_prompts(self) -> PromptDictType:
        return {"sentence_prompt": self._sentence_prompt}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        if "sentence_prompt" in prompts:
            template = prompts["sentence_prompt"]
            if not isinstance(template, PromptTemplate):
                raise ConfigError("sentence_prompt is no PromptTemplate")
            self._sentence_prompt = template

    # -- text only: what LlamaIndex calls when it has no nodes ---------------------------------------

    def get_response(self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any) -> str:  # noqa: ARG002
        """Return the first line of the first chunk, which is its item's title."""
        return text_chunks[0].splitlines()[0] if text_chunks and text_chunks[0] else self._empty_response

    async def aget_response(self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any) -> str:
        """Return the first line of the first chunk."""
        return self.get_response(query_str, text_chunks, **response_kwargs)

    # -- with nodes ------------------------------------------------------------------------------------

    def synthesize(
        self,
        query: QueryType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,  # noqa: ARG002
    ) -> RESPONSE_TYPE:
        """Return the answer for ranked nodes, best first.

        Raises
        ------
        LLMServerError
            If the server behind the LLM gives no answer and ``on_error`` is "raise".
        """
        bundle = self._start(query)
        payload: dict[str, Any] = {EventPayload.QUERY_STR: bundle.query_str}
        with self._callback_manager.event(CBEventType.SYNTHESIZE, payload=payload) as event:
            sentence = self._written(bundle, nodes)
            response = self._respond(bundle, nodes, additional_source_nodes, sentence, is_async=False)
            event.on_end(payload={EventPayload.RESPONSE: response})
        dispatcher.event(SynthesizeEndEvent(query=bundle, response=response))
        return response

    async def asynthesize(
        self,
        query: QueryType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,  # noqa: ARG002
    ) -> RESPONSE_TYPE:
        """Return the answer without blocking the event loop; see `synthesize`."""
        bundle = self._start(query)
        payload: dict[str, Any] = {EventPayload.QUERY_STR: bundle.query_str}
        with self._callback_manager.event(CBEventType.SYNTHESIZE, payload=payload) as event:
            sentence = await self._awritten(bundle, nodes)
            response = self._respond(bundle, nodes, additional_source_nodes, sentence, is_async=True)
            event.on_end(payload={EventPayload.RESPONSE: response})
        dispatcher.event(SynthesizeEndEvent(query=bundle, response=response))
        return response

    def _written(self, bundle: QueryBundle, nodes: Sequence[NodeWithScore]) -> _Sentence | None:
        if not nodes or self._backend is None:
            return None
        request = self._sentence_request(bundle, nodes)
        with tallied() as sent:
            try:
                return _Sentence(self._backend.generate([request], max_new_tokens=64)[0][0], sent)
            except LLMServerError as error:
                return self._unwritten(error, sent)

    async def _awritten(self, bundle: QueryBundle, nodes: Sequence[NodeWithScore]) -> _Sentence | None:
        if not nodes or self._backend is None:
            return None
        request = self._sentence_request(bundle, nodes)
        with tallied() as sent:
            try:
                return _Sentence((await self._backend.agenerate([request], max_new_tokens=64))[0][0], sent)
            except LLMServerError as error:
                return self._unwritten(error, sent)

    def _unwritten(self, error: LLMServerError, sent: Tally) -> _Sentence:
        if self.on_error == "raise":
            raise error
        logger.warning("no sentence was written, the title is the answer: %s", error.message)
        return _Sentence(None, sent, error)

    def _respond(
        self,
        bundle: QueryBundle,
        nodes: Sequence[NodeWithScore],
        additional: Sequence[NodeWithScore] | None,
        sentence: _Sentence | None,
        *,
        is_async: bool,
    ) -> RESPONSE_TYPE:
        text = self._compose(nodes, sentence)
        metadata, sources = response_metadata(bundle, nodes), [*nodes, *(additional or ())]
        if sentence is not None:
            metadata["report"] = {**metadata["report"], "answer": sentence.report}
        if not self._streaming:
            return Response(text, source_nodes=sources, metadata=metadata)
        if is_async:
            return AsyncStreamingResponse(_awords(text), source_nodes=sources, metadata=metadata)
        return StreamingResponse(_words(text), source_nodes=sources, metadata=metadata)

    def _start(self, query: QueryType) -> QueryBundle:
        dispatcher.event(SynthesizeStartEvent(query=query))
        return QueryBundle(query_str=query) if isinstance(query, str) else query

    def _sentence_request(
        self, bundle: QueryBundle, nodes: Sequence[NodeWithScore]
    ) -> tuple[ChatMessage, ...]:
        assert self._backend is not None
        history = render_history(dialogue_of(bundle), budget=512, measure=self._backend.measure)
        item = item_of(nodes[0].node)
        details = self._backend.measure.head(one_line(item.text()), 160)
        text = self._sentence_prompt.format(conversation_history=history.text, item=details)
        return (ChatMessage(role=MessageRole.USER, content=text),)

    def _compose(self, nodes: Sequence[NodeWithScore], sentence: _Sentence | None) -> str:
        if not nodes:
            return self._empty_response
        item = item_of(nodes[0].node)
        if sentence is None or sentence.text is None:
            return one_line(item.title)
        reason = one_line(sentence.text)
        return f"{answer_title(item)}. {reason}" if reason else answer_title(item)


def _words(text: str) -> Generator[str, None, None]:
    for number, word in enumerate(text.split(" ")):
        yield word if number == 0 else f" {word}"


async def _awords(text: str) -> AsyncGenerator[str, None]:
    for word in _words(text):
        yield word
