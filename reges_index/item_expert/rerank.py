"""`ReGeSRerank`: the item expert as a LlamaIndex node postprocessor (section 2.4)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, get_args

from llama_index.core.llms.llm import LLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate
from llama_index.core.prompts.mixin import PromptDictType, PromptMixin, PromptMixinType
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index_instrumentation import get_dispatcher
from pydantic import Field, PrivateAttr

from reges_index.catalog.item import Item
from reges_index.dialogue import dialogue_of
from reges_index.dialogue.wording import MOVIES, Domain
from reges_index.errors import ConfigError, InputError, LLMServerError, ReGeSError
from reges_index.item_expert.api_selection import ApiSelector, listed_tokens
from reges_index.item_expert.events import ItemSelectedEvent
from reges_index.item_expert.local_selection import LocalSelector, SelectionMode
from reges_index.item_expert.prompt import (
    COT_SELECT_TMPL,
    DEFAULT_SELECT_TMPL,
    PromptBudget,
    SelectionPrompt,
    as_select_template,
    build_selection_prompt,
    selection_prompt_hash,
)
from reges_index.item_expert.ranking import RankedCandidate, Ranking, choice_report, ranked_candidates
from reges_index.item_expert.reasoned_selection import ReasoningSelector
from reges_index.item_expert.reasoning import Reasoner, ReasoningDecoding
from reges_index.item_expert.rerank_events import rerank_events
from reges_index.item_expert.selection import Selection, Selector
from reges_index.models.api_requests import Tally, tallied
from reges_index.models.backend import AUTO, ApiBackend, Backend, LocalBackend, resolve_backend
from reges_index.models.local_lm import LocalLM
from reges_index.models.tracing import span

__all__ = ["RankedCandidate", "Ranking", "ReGeSRerank"]

logger = logging.getLogger(__name__)
dispatcher = get_dispatcher(__name__)

ROLE = "item-expert"
REASONING_ROLE = "item-expert-cot"
# Chat template around the prompt (system message, role marks), beside what build_selection_prompt counts.
_FRAME_TOKENS = 96


class ReGeSRerank(BaseNodePostprocessor, PromptMixin):
    """Let LLM_G rank the retrieved candidates for the dialogue in the query bundle.

    Parameters
    ----------
    llm
        A `LocalLM`, `ReGeSLLM`, ``HuggingFaceLLM`` or any other LlamaIndex LLM; None takes the embedded
        default. ``Settings.llm`` is never asked.
    top_n
        How many nodes to return, 1 or more; all are ranked in any case.
    mode
        "score", "constrained" or "generate", see `LocalSelector` and, for LLMs behind an API, `ApiSelector`.
        "reason" is chain of thought (section 3.7.2) with any LLM: it writes down the seeker's preferences,
        and then the candidates are scored with these in sight.
    adapter
        By default ``item-expert`` (with "reason" ``item-expert-cot``) where it is loaded; None runs the bare
        model.
    select_prompt
        Template with the slots ``{candidates}`` and ``{conversation_history}``; also by
        ``update_prompts({"select_prompt": ...})``. By default the paper's, with "reason" `COT_SELECT_TMPL`.
    domain
        What an item is called in the prompt.
    max_input_tokens, max_history_tokens, max_candidate_tokens
        Budgets of the prompt: all of it (4,096 in the paper), the dialogue, one candidate's details. By
        default what the adapter recommends. The context window of the model is never exceeded.
    length_penalty
        See `LocalSelector`.
    reasoning
        How the reasoning is written, with "reason" only; see `ReasoningDecoding`.
    keep_retrieval_score
        Put the retriever's score into each node's metadata as ``retrieval_score``.
    on_error
        What to do when the server behind the model gives no answer, after all retries (down, too slow, wrong
        key, nonsense): "raise" an `LLMServerError`, or "retrieval_order" to keep the retriever's order and
        say so in the report and the log.
    verbose
        Log the ranking at INFO.

    Notes
    -----
    A node's score is its probability where the model gives probabilities, else the retriever's score.
    """

    top_n: int = Field(description="Number of nodes to return.")
    mode: str = Field(frozen=True, description="score, constrained, generate or reason.")
    keep_retrieval_score: bool = Field(description="Whether to keep the retrieval score in metadata.")
    on_error: str = Field(description="raise or retrieval_order.")
    verbose: bool = Field(description="Whether to log the ranking.")

    _backend: Backend = PrivateAttr()
    _selector: Selector = PrivateAttr()
    _reasoner: Reasoner | None = PrivateAttr(default=None)
    _template: PromptTemplate = PrivateAttr()
    _domain: Domain = PrivateAttr()
    _budget: PromptBudget = PrivateAttr()

    def __init__(
        self,
        llm: LLM | LocalLM | None = None,
        *,
        top_n: int = 10,
        mode: SelectionMode = "score",
        adapter: str | None = AUTO,
        select_prompt: BasePromptTemplate | str | None = None,
        domain: Domain = MOVIES,
        max_input_tokens: int | None = None,
        max_history_tokens: int | None = None,
        max_candidate_tokens: int | None = None,
        length_penalty: float | None = None,
        reasoning: ReasoningDecoding | None = None,
        keep_retrieval_score: bool = False,
        on_error: Literal["raise", "retrieval_order"] = "raise",
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        if top_n < 1:
            raise ConfigError(f"top_n={top_n} would return nothing", hint="use 1 or more")
        for name, value, known in (
            ("mode", mode, get_args(SelectionMode)),
            ("on_error", on_error, ("raise", "retrieval_order")),
        ):
            if value not in known:
                raise ConfigError(f"{name}={value!r} is unknown", hint=f"use {' or '.join(known)}")
        for name, number in (
            ("max_input_tokens", max_input_tokens),
            ("max_history_tokens", max_history_tokens),
            ("max_candidate_tokens", max_candidate_tokens),
        ):
            if number is not None and number < 1:
                raise ConfigError(f"{name}={number} leaves no room", hint="use 1 or more, or None")
        if reasoning is not None and mode != "reason":
            raise ConfigError(f"reasoning has no effect with mode={mode!r}", hint='give mode="reason"')
        fields: dict[str, Any] = {
            "top_n": top_n,
            "mode": mode,
            "keep_retrieval_score": keep_retrieval_score,
            "on_error": on_error,
            "verbose": verbose,
        }
        super().__init__(**fields)
        reasons = mode == "reason"
        self._backend = resolve_backend(llm, role=self._role, adapter=adapter)
        advice = self._backend.inference_settings
        default = COT_SELECT_TMPL if reasons else DEFAULT_SELECT_TMPL
        self._template = as_select_template(select_prompt or default)
        self._backend.check_prompt(selection_prompt_hash(self._template), role=self._role)
        self._domain = domain
        self._budget = PromptBudget(
            total=max_input_tokens or advice.get("max_input_tokens", 4096),
            history=max_history_tokens or advice.get("max_history_tokens", 1024),
            details=max_candidate_tokens or advice.get("max_candidate_tokens"),
        )
        if isinstance(self._backend, LocalBackend):
            penalty = advice.get("length_penalty", 0.0) if length_penalty is None else length_penalty
            self._selector = LocalSelector(self._backend, mode, length_penalty=penalty, seed=seed)
        elif isinstance(self._backend, ApiBackend):
            self._selector = ApiSelector(self._backend, mode)
        if reasons:
            self._reasoner = Reasoner(self._backend, reasoning or ReasoningDecoding(), seed=seed)

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the component."""
        return "ReGeSRerank"

    @classmethod
    def from_defaults(cls, llm: LLM | LocalLM | None = None, **kwargs: Any) -> ReGeSRerank:
        """Build with the embedded model when ``llm`` is None; see the class for the arguments."""
        return cls(llm, **kwargs)

    @property
    def _role(self) -> str:
        return REASONING_ROLE if self.mode == "reason" else ROLE

    @property
    def backend(self) -> Backend:
        """The model that ranks, with the adapter that it uses."""
        return self._backend

    @property
    def domain(self) -> Domain:
        """What an item is called in the prompt."""
        return self._domain

    @property
    def budget(self) -> PromptBudget:
        """The prompt's budgets that are in force."""
        return self._budget

    @property
    def selector(self) -> Selector:
        """What chooses among the candidates of a prompt."""
        return self._selector

    @property
    def reasoning(self) -> ReasoningDecoding | None:
        """How the reasoning is written; None without chain of thought."""
        return self._reasoner.decoding if self._reasoner is not None else None

    @property
    def _chooser(self) -> Selector:
        if self._reasoner is None:
            return self._selector
        spoken = not isinstance(self._backend, LocalBackend)
        return ReasoningSelector(self._selector, self._reasoner, spoken=spoken)

    @property
    def local_model(self) -> LocalLM | None:
        """The model in this process that ranks; None when it is behind an API."""
        return self._backend.lm if isinstance(self._backend, LocalBackend) else None

    def _get_prompts(self) -> PromptDictType:
        return {"select_prompt": self._template}

    def _get_prompt_modules(self) -> PromptMixinType:
        return {}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        if "select_prompt" in prompts:
            template = as_select_template(prompts["select_prompt"])
            self._backend.check_prompt(selection_prompt_hash(template), role=self._role)
            self._template = template

    # -- the prompt --------------------------------------------------------------------------------

    def build_prompt(self, items: Sequence[Item], bundle: QueryBundle) -> SelectionPrompt:
        """Return the prompt that would be sent for these candidates."""
        titles = [item.title for item in items]
        longest = max(map(self._backend.measure.count, titles), default=0)
        if isinstance(self._backend, ApiBackend):
            longest += listed_tokens(titles, self._backend.measure)
        thought = self._reasoner.decoding.max_new_tokens if self._reasoner is not None else 0
        room = self._backend.context_window - longest - thought - _FRAME_TOKENS
        budget = PromptBudget(min(self._budget.total, room), self._budget.history, self._budget.details)
        return build_selection_prompt(
            dialogue_of(bundle),
            items,
            measure=self._backend.measure,
            budget=budget,
            template=self._template,
            domain=self._domain,
        )

    # -- ranking -----------------------------------------------------------------------------------

    @span
    def rank(self, nodes: Sequence[NodeWithScore], query_bundle: QueryBundle) -> Ranking:
        """Rank all nodes; `postprocess_nodes` returns the first ``top_n`` of these.

        Raises
        ------
        InputError
            If the candidates' names do not fit into the model's context beside the dialogue.
        LLMServerError
            If the server behind the model gives no answer and ``on_error`` is "raise".
        """
        if not nodes:
            return Ranking((), {"rerank": {"candidates": 0}})
        with self._announced(nodes, query_bundle) as done, tallied() as sent:
            prompt = self.build_prompt(_items(nodes), query_bundle)
            try:
                selection = self._chooser.select(prompt)
            except Exception as error:  # whatever a client library raises; re-raised unless told otherwise
                return done(self._without_choice(error, nodes, prompt, sent))
            return done(self._ranking(nodes, prompt, selection, sent))

    @span
    async def arank(self, nodes: Sequence[NodeWithScore], query_bundle: QueryBundle) -> Ranking:
        """Rank without blocking the event loop; see `rank`."""
        if not nodes:
            return Ranking((), {"rerank": {"candidates": 0}})
        with self._announced(nodes, query_bundle) as done, tallied() as sent:
            # In a thread: tokenizing fifty abstracts takes longer than an event loop should wait.
            prompt = await asyncio.to_thread(self.build_prompt, _items(nodes), query_bundle)
            try:
                selection = await self._chooser.aselect(prompt)
            except Exception as error:  # as in rank
                return done(self._without_choice(error, nodes, prompt, sent))
            return done(self._ranking(nodes, prompt, selection, sent))

    def _without_choice(
        self, error: Exception, nodes: Sequence[NodeWithScore], prompt: SelectionPrompt, sent: Tally
    ) -> Ranking:
        mistake = False
        if isinstance(self._backend, ApiBackend):  # what came outside of its requests, as while it streamed
            error = self._backend.requests.explain(error, parses=True) or error
            mistake = self._backend.requests.is_mistake(error)
        ours = isinstance(error, (ReGeSError, AssertionError)) and not isinstance(error, LLMServerError)
        if self.on_error == "raise" or ours or mistake:
            raise error
        # Of other errors the class only: what they say may hold a key.
        what = error.message if isinstance(error, LLMServerError) else type(error).__name__
        logger.warning("%s could not choose (%s); keeping retrieval order", self._backend.name, what)
        selection = Selection(tuple(range(len(nodes))), "hallucinated", fallbacks=1)
        return self._ranking(nodes, prompt, selection, sent, error=error)

    def _ranking(
        self,
        nodes: Sequence[NodeWithScore],
        prompt: SelectionPrompt,
        selection: Selection,
        sent: Tally,
        *,
        error: Exception | None = None,
    ) -> Ranking:
        candidates = ranked_candidates(nodes, selection, keep_retrieval_score=self.keep_retrieval_score)
        report = {
            "mode": self.mode if isinstance(self._backend, LocalBackend) else "api",
            "adapter": self._backend.adapter,
            "requests": sent.requests,
            "retries": sent.retries,
            "error": error.kind if isinstance(error, LLMServerError) else error and type(error).__name__,
            **choice_report(prompt, selection),
        }
        if error is not None:
            report["outcome"] = "failed"
        dispatcher.event(
            ItemSelectedEvent.of(
                prompt, selection, candidates,
                model=self._backend.name, adapter=self._backend.adapter, outcome=report["outcome"],
            )
        )  # fmt: skip
        if self.verbose:
            for candidate in candidates[: self.top_n]:
                logger.info("%3d %s %s", candidate.rank, candidate.probability, candidate.item.title)
        return Ranking(candidates, {"rerank": report})

    # -- LlamaIndex --------------------------------------------------------------------------------

    def _announced(
        self, nodes: Sequence[NodeWithScore], query_bundle: QueryBundle
    ) -> AbstractContextManager[Callable[[Ranking], Ranking]]:
        return rerank_events(
            self.callback_manager, nodes, query_bundle, model=self._backend.name, top_n=self.top_n
        )

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return [c.node for c in self.rank(nodes, _needed(query_bundle)).candidates[: self.top_n]]

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        ranking = await self.arank(nodes, _needed(query_bundle))
        return [c.node for c in ranking.candidates[: self.top_n]]


def _items(nodes: Sequence[NodeWithScore]) -> list[Item]:
    return [Item.from_node(node.node) for node in nodes]


def _needed(query_bundle: QueryBundle | None) -> QueryBundle:
    if query_bundle is None:
        raise InputError("ReGeSRerank needs the query bundle", hint="pass query_bundle= or query_str=")
    return query_bundle
