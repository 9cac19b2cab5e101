"""`ReGeSSynthesizer`: the first of the ranked nodes becomes the answer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.base.response.schema import Response
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
from reges_index.driver import Work, arun, run
from reges_index.errors import ConfigError, LLMServerError
from reges_index.item_expert.ranking import response_metadata
from reges_index.models.api import tallied
from reges_index.models.backend import Backend, resolve_backend
from reges_index.settings import AnswerSettings

if TYPE_CHECKING:
    from reges_index.models.local_lm import LocalLM

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


class ReGeSSynthesizer(BaseSynthesizer):
    """Answer with the best-ranked item.

    Parameters
    ----------
    llm
        Only asked for ``style="sentence"``; None takes the embedded default then.
    style
        "title": the title alone, as in the paper. "sentence": the title and year, then one sentence by
        the LLM on why it fits. The item itself is never the LLM's doing, so it is always in the catalog.
    on_error
        What to do when the server behind the LLM gives no answer, after all retries (down, too slow, wrong
        key, nonsense): "raise" an `LLMServerError`, or "title" to answer as with ``style="title"`` and say
        so in the report and the log. The item has been chosen by then, and stays.
    sentence_prompt
        Template with the slots ``{conversation_history}`` and ``{item}``; also by ``update_prompts``.

    Attributes
    ----------
    backend
        The model that writes the sentence; None where the title is all.
    empty_response
        The answer when there is nothing to recommend.

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
        on_error: Literal["raise", "title"] = "raise",
        sentence_prompt: PromptTemplate | str | None = None,
        callback_manager: CallbackManager | None = None,
        empty_response: str = NOTHING_TO_RECOMMEND,
    ) -> None:
        # Not super().__init__(): it resolves Settings.llm, which reaches for OpenAI, and titles need no LLM.
        prompt = PromptTemplate(sentence_prompt) if isinstance(sentence_prompt, str) else sentence_prompt
        self._settings = AnswerSettings(style=style, on_error=on_error)
        self.backend: Backend | None = (
            resolve_backend(llm, role="synthesizer") if style == "sentence" else None
        )
        self._callback_manager = callback_manager or CallbackManager([])
        self.empty_response = empty_response
        self._sentence_prompt = prompt or DEFAULT_SENTENCE_TMPL

    @property
    def settings(self) -> AnswerSettings:
        """The options in force as plain values, with the prompt as it is now."""
        text, empty = self._sentence_prompt.template, self.empty_response
        return self._settings.override(
            sentence_prompt=None if text == DEFAULT_SENTENCE_TMPL.template else text,
            empty_response=None if empty == NOTHING_TO_RECOMMEND else empty,
        )

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
        return text_chunks[0].splitlines()[0] if text_chunks and text_chunks[0] else self.empty_response

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
    ) -> Response:
        """Return the answer for ranked nodes, best first.

        Raises
        ------
        LLMServerError
            If the server behind the LLM gives no answer and ``on_error`` is "raise".
        """
        return run(self._answering(query, nodes, additional_source_nodes or ()))

    async def asynthesize(
        self,
        query: QueryType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,  # noqa: ARG002
    ) -> Response:
        """Return the answer without blocking the event loop; see `synthesize`."""
        return await arun(self._answering(query, nodes, additional_source_nodes or ()))

    def _answering(
        self, query: QueryType, nodes: Sequence[NodeWithScore], more: Sequence[NodeWithScore]
    ) -> Work[Response]:
        dispatcher.event(SynthesizeStartEvent(query=query))
        bundle = QueryBundle(query_str=query) if isinstance(query, str) else query
        payload: dict[str, Any] = {EventPayload.QUERY_STR: bundle.query_str}
        with self._callback_manager.event(CBEventType.SYNTHESIZE, payload=payload) as event:
            metadata = response_metadata(bundle, nodes)
            text = one_line(Item.from_node(nodes[0].node).title) if nodes else self.empty_response
            if nodes and self.backend is not None:
                reason, report = yield from self._sentence(self.backend, bundle, nodes[0])
                metadata["report"] = {**metadata["report"], "answer": report}
                if reason is not None:
                    title = answer_title(Item.from_node(nodes[0].node))
                    text = f"{title}. {reason}" if reason else title
            response = Response(text, source_nodes=[*nodes, *more], metadata=metadata)
            event.on_end(payload={EventPayload.RESPONSE: response})
        dispatcher.event(SynthesizeEndEvent(query=bundle, response=response))
        return response

    def _sentence(
        self, backend: Backend, bundle: QueryBundle, best: NodeWithScore
    ) -> Work[tuple[str | None, dict[str, Any]]]:
        """Return what the model wrote, None if nothing came, and what the report says of it."""
        history = render_history(dialogue_of(bundle), budget=512, measure=backend.measure)
        details = backend.measure.head(one_line(Item.from_node(best.node).text()), 160)
        asked = self._sentence_prompt.format(conversation_history=history.text, item=details)
        request, text, kind = ChatMessage(role=MessageRole.USER, content=asked), None, None
        with tallied() as sent:
            try:
                ((text,),) = yield from backend.said([[request]], max_new_tokens=64)
            except LLMServerError as error:
                if self._settings.on_error == "raise":
                    raise
                logger.warning("no sentence was written, the title is the answer: %s", error.message)
                kind = error.kind
        report = {"requests": sent.requests, "retries": sent.retries, "error": kind}
        return None if text is None else one_line(text), report
