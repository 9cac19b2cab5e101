"""`ReGeSRerank`: the item expert as a LlamaIndex node postprocessor (section 2.4)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.llms.llm import LLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.prompts import PromptTemplate
from llama_index.core.prompts.mixin import PromptDictType, PromptMixin, PromptMixinType
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index_instrumentation import get_dispatcher
from pydantic import Field, PrivateAttr

from reges_index.catalog.fields import FieldNames
from reges_index.catalog.item import Item, as_item_nodes, with_metadata
from reges_index.dialogue import dialogue_of
from reges_index.dialogue.wording import MOVIES, Domain
from reges_index.driver import Work, arun, run
from reges_index.errors import ConfigError, InputError, LLMServerError, ReGeSError
from reges_index.item_expert.choosing import RerankMode, try_ways, ways_of
from reges_index.item_expert.events import CandidateScore, ItemSelectedEvent
from reges_index.item_expert.prior import DEFAULT_WEIGHTS, pick_evidence, prior_of
from reges_index.item_expert.prompt import (
    COT_SELECT_TMPL,
    DEFAULT_SELECT_TMPL,
    PromptBudget,
    SelectionPrompt,
    as_select_template,
    build_selection_prompt,
    rank_template_after,
    selection_prompt_hash,
)
from reges_index.item_expert.ranking import (
    Candidate,
    Ranking,
    candidates_of,
    ranked_candidates,
)
from reges_index.item_expert.reasoning import Reasoner
from reges_index.item_expert.selection import Selection
from reges_index.item_expert.ways import PromptKind, Question, Way, listed_tokens, ranking_tokens
from reges_index.models.api import Tally, tallied
from reges_index.models.backend import (
    AUTO,
    ApiBackend,
    Backend,
    LocalBackend,
    resolve_backend,
    span,
)
from reges_index.query_expert.retriever import REPORT_KEY
from reges_index.settings import ReasoningDecoding, RerankOptions, RerankSettings

if TYPE_CHECKING:
    from reges_index.models.local_lm import LocalLM

logger = logging.getLogger(__name__)
dispatcher = get_dispatcher(__name__)

ROLE = "item-expert"
REASONING_ROLE = "item-expert-cot"
RANKING_ROLE = "item-expert-rank"
# Chat template around the prompt (system message, role marks), beside what build_selection_prompt counts.
_FRAME_TOKENS = 96
# So many places a ranking fills at least, however few are returned: the order behind the first is evidence.
_LEAST_RANKED = 10


def role_of(mode: str) -> str:
    """Return the role of the adapter that a mode asks."""
    return {"reason": REASONING_ROLE, "rank": RANKING_ROLE}.get(mode, ROLE)


class ReGeSRerank(BaseNodePostprocessor, PromptMixin):
    """Let LLM_G rank the retrieved candidates for the dialogue in the query bundle.

    Parameters
    ----------
    llm
        A `LocalLM`, `ReGeSLLM`, ``HuggingFaceLLM`` or any other LlamaIndex LLM; None takes the embedded
        default. ``Settings.llm`` is never asked.
    top_n
        How many nodes to return, 1 or more; all are ranked in any case.
    adapter
        The name of an adapter that is loaded in a model in this process, or the folder of one, which is then
        loaded. By default ``item-expert`` (with "reason" ``item-expert-cot``) where it is loaded, else the
        adapter that the model was given with; None runs the bare model.
    manifest
        Folder of the adapter that the server behind ``llm`` runs (vLLM, LoRAX): budgets, prompt and decoding
        are then what it was trained with, and with "auto" it is asked for a title as plain text.
    domain
        What an item is called in the prompt.
    title_key, field_names
        Which metadata keys of nodes made elsewhere hold the title and other fields of an item, where they are
        not called as usual: ``title_key="label"``, ``field_names={"year": "released"}``.
    settings, options
        `RerankSettings`, and its fields as keywords, which go before it: ``mode``, ``prior``, ``window``, ...
        Prompts may be templates; they can also be changed by ``update_prompts({"select_prompt": ...})``.

    Raises
    ------
    ConfigError
        If there is no such option, or its value cannot be.
    AdapterError
        If the adapter is not loaded, or was trained for another role or prompt.

    Notes
    -----
    A node's score is its probability where there is one, else the retriever's score. A node that comes twice
    is one candidate, and so are the chunks of one document, under the document's id.
    """

    top_n: int = Field(description="Number of nodes to return.")

    _backend: Backend = PrivateAttr()
    _ways: list[Way] = PrivateAttr()
    _reasoner: Reasoner | None = PrivateAttr(default=None)
    _select_template: PromptTemplate = PrivateAttr()
    _rank_template: PromptTemplate | None = PrivateAttr(default=None)
    _domain: Domain = PrivateAttr()
    _names: FieldNames | None = PrivateAttr(default=None)
    _budget: PromptBudget = PrivateAttr()
    _settings: RerankSettings = PrivateAttr()
    _asking: dict[str, Any] = PrivateAttr()

    def __init__(
        self,
        llm: LLM | LocalLM | None = None,
        *,
        top_n: int = 10,
        adapter: str | Path | None = AUTO,
        manifest: str | Path | None = None,
        domain: Domain = MOVIES,
        title_key: str | None = None,
        field_names: FieldNames | Mapping[str, str] | None = None,
        settings: RerankSettings | None = None,
        **options: Unpack[RerankOptions],
    ) -> None:
        if top_n < 1:
            raise ConfigError(f"top_n={top_n} would return nothing", hint="use 1 or more")
        chosen = RerankSettings.of(settings, options, where="ReGeSRerank")
        super().__init__(top_n=top_n)  # type: ignore[call-arg]
        self._settings = chosen
        self._names = FieldNames.of(field_names, title_key) if title_key or field_names else None
        self._backend = resolve_backend(llm, role=self._role, adapter=adapter, manifest=manifest)
        advice = {
            "max_input_tokens": 4096, "max_history_tokens": 1024, **self._backend.inference_settings
        }  # fmt: skip
        given = options.get("select_prompt") or chosen.select_prompt
        trained = self._backend.trained_template(selection_prompt_hash)
        self._select_template = as_select_template(given or trained or self._usual_template)
        if rank_prompt := options.get("rank_prompt") or chosen.rank_prompt:
            self._rank_template = as_select_template(rank_prompt, "rank_prompt")
        self._check_prompts()
        self._domain = domain
        self._budget = PromptBudget(
            total=chosen.max_input_tokens or advice["max_input_tokens"],
            history=chosen.max_history_tokens or advice["max_history_tokens"],
            details=chosen.max_candidate_tokens or advice.get("max_candidate_tokens"),
        )
        penalty = chosen.length_penalty
        self._asking = {
            "length_penalty": advice.get("length_penalty", 0.0) if penalty is None else penalty,
            **chosen.model_dump(include={"seed", "window", "passes", "min_mass"}),
        }
        self._ways = ways_of(chosen.mode, self._backend, **self._asking)
        if chosen.mode == "reason":
            decoding = chosen.reasoning or ReasoningDecoding()
            self._reasoner = Reasoner(self._backend, decoding, seed=chosen.seed)

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the component."""
        return "ReGeSRerank"

    @property
    def mode(self) -> RerankMode:
        """How the item expert chooses."""
        return self._settings.mode

    @property
    def _role(self) -> str:
        return role_of(self.mode)

    @property
    def _usual_template(self) -> PromptTemplate:
        return COT_SELECT_TMPL if self.mode == "reason" else DEFAULT_SELECT_TMPL

    @property
    def settings(self) -> RerankSettings:
        """The options in force as plain values, with the prompts as they are now."""
        select, ranking = self._select_template.template, self._rank_template
        return self._settings.override(
            select_prompt=None if select == self._usual_template.template else select,
            rank_prompt=None if ranking is None else ranking.template,
        )

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
    def asking(self) -> dict[str, Any]:
        """How the model is asked: ``length_penalty``, ``seed``, ``window``, ``passes`` and ``min_mass``."""
        return dict(self._asking)

    @property
    def reasoning(self) -> ReasoningDecoding | None:
        """How the reasoning is written; None without chain of thought."""
        return self._reasoner.decoding if self._reasoner is not None else None

    # -- the prompts -------------------------------------------------------------------------------

    @property
    def rank_template(self) -> PromptTemplate:
        """The ranking prompt that is in force."""
        return self._rank_template or rank_template_after(self._select_template)

    def _get_prompts(self) -> PromptDictType:
        select: PromptDictType = {"select_prompt": self._select_template}
        asks_for_rankings = self.mode == "rank" or (
            self.mode in ("auto", "reason") and isinstance(self._backend, ApiBackend)
        )
        return {**select, "rank_prompt": self.rank_template} if asks_for_rankings else select

    def _get_prompt_modules(self) -> PromptMixinType:
        return {}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        before = self._select_template, self._rank_template
        if "select_prompt" in prompts:
            self._select_template = as_select_template(prompts["select_prompt"])
        if "rank_prompt" in prompts:
            self._rank_template = as_select_template(prompts["rank_prompt"], "rank_prompt")
        try:
            self._check_prompts()
        except ReGeSError:
            self._select_template, self._rank_template = before
            raise

    def _check_prompts(self) -> None:
        """Raise `AdapterError` where the adapter was trained with another prompt."""
        asked = self.rank_template if self.mode == "rank" else self._select_template
        self._backend.check_prompt(selection_prompt_hash(asked), role=self._role)

    def build_prompt(
        self, items: Sequence[Item], bundle: QueryBundle, kind: PromptKind | None = None, best: int = 0
    ) -> SelectionPrompt:
        """Return the prompt that would be sent for these candidates.

        Parameters
        ----------
        kind
            "select" for one name, "rank" for a ranking. None is what the mode asks for first.
        best
            How many a ranking is to name; 0 is the number for so many candidates.
        """
        if kind is None:
            kind = "rank" if self.mode == "rank" else "select"
        count = (best or min(len(items), self._best)) if kind == "rank" else None
        measure = self._backend.measure
        titles = [item.title for item in items]
        answer = max(map(measure.count, titles), default=0) if count is None else ranking_tokens(count)
        if isinstance(self._backend, ApiBackend) and count is None:
            answer += listed_tokens(titles, measure)
        thought = self._reasoner.decoding.max_new_tokens if self._reasoner is not None else 0
        room = self._backend.context_window - answer - thought - _FRAME_TOKENS
        budget = PromptBudget(min(self._budget.total, room), self._budget.history, self._budget.details)
        return build_selection_prompt(
            dialogue_of(bundle),
            items,
            measure=measure,
            budget=budget,
            template=self._select_template if count is None else self.rank_template,
            domain=self._domain,
            count=count,
        )

    @property
    def _best(self) -> int:
        return max(self.top_n, _LEAST_RANKED)

    # -- ranking -----------------------------------------------------------------------------------

    @span
    def rank(
        self,
        nodes: Sequence[NodeWithScore],
        query_bundle: QueryBundle,
        *,
        scores_are_probabilities: bool | None = None,
    ) -> Ranking:
        """Rank all nodes; `postprocess_nodes` returns the first ``top_n`` of these.

        Parameters
        ----------
        scores_are_probabilities
            What the retriever says of its scores, for ``prior="auto"``; None asks the nodes.

        Raises
        ------
        InputError
            If the candidates' names do not fit into the model's context beside the dialogue.
        LLMServerError
            If the server behind the model gives no answer and ``on_error`` is "raise".
        """
        with tallied() as sent:
            return run(self._plan(nodes, query_bundle, sent, scores_are_probabilities))

    @span
    async def arank(
        self,
        nodes: Sequence[NodeWithScore],
        query_bundle: QueryBundle,
        *,
        scores_are_probabilities: bool | None = None,
    ) -> Ranking:
        """Rank without blocking the event loop; see `rank`."""
        with tallied() as sent:
            return await arun(self._plan(nodes, query_bundle, sent, scores_are_probabilities))

    def _plan(
        self, nodes: Sequence[NodeWithScore], bundle: QueryBundle, sent: Tally, known: bool | None
    ) -> Work[Ranking]:
        if not nodes:
            return Ranking((), {"rerank": {"candidates": 0}})
        if self._names is not None:
            nodes = as_item_nodes(nodes, self._names)
        model, given = self._backend.name, list(nodes)
        dispatcher.event(ReRankStartEvent(query=bundle, nodes=given, top_n=self.top_n, model_name=model))
        payload: dict[str, Any] = {
            EventPayload.NODES: given,
            EventPayload.MODEL_NAME: model,
            EventPayload.QUERY_STR: bundle.query_str,
            EventPayload.TOP_K: self.top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            candidates = candidates_of(nodes)
            items = [candidate.item for candidate in candidates]
            question = Question(
                items, lambda some, kind, best: self.build_prompt(some, bundle, kind, best), self._best
            )
            error: Exception | None = None
            try:
                selection = yield from self._chosen(question)
            except Exception as problem:  # whatever a client library raises; re-raised unless told otherwise
                error = self._to_live_with(problem, asked=bool(question.asked))
                selection = replace(Selection.nothing(len(candidates)), fallbacks=1)
            selection, of_prior = self._with_prior(selection, candidates, known)
            ranking = self._ranking(candidates, question.asked[-1], selection, of_prior, sent, error)
            ranked = [candidate.node for candidate in ranking.candidates[: self.top_n]]
            event.on_end(payload={EventPayload.NODES: ranked})
        dispatcher.event(ReRankEndEvent(nodes=ranked))
        return ranking

    def _chosen(self, question: Question) -> Work[Selection]:
        offers = self._backend.offers if isinstance(self._backend, ApiBackend) else None
        if self._reasoner is None:
            return (yield from try_ways(self._ways, question, offers))
        thought = yield from self._reasoner.writing((yield from question.prompt("select")))
        question.after(thought.text, spoken=not isinstance(self._backend, LocalBackend))
        selection = yield from try_ways(self._ways, question, offers)
        return replace(selection, reasoning=thought)

    def _with_prior(
        self, selection: Selection, candidates: Sequence[Candidate], known: bool | None
    ) -> tuple[Selection, dict[str, Any]]:
        """Return the selection with the retriever's word in it, and what the report says of that."""
        if selection.kind == "pick" and selection.pick is not None:
            said = pick_evidence(selection.pick, len(candidates), self._settings.pick_probability)
            selection = replace(selection, evidence=said)
        nodes = [candidate.node for candidate in candidates]
        prior = prior_of(nodes, wanted=self._settings.prior, known=known)
        if prior is None:
            return selection, {"prior": False, "evidence": selection.kind}
        weight = self._settings.prior_weight
        if weight is None:
            weight = self._backend.inference_settings.get("prior_weight")
        if weight is None:
            weight = DEFAULT_WEIGHTS[selection.kind] if selection.kind is not None else 0.0
        told = {"prior": True, "prior_weight": weight, "evidence": selection.kind}
        return selection.with_prior(prior, float(weight)), told

    def _to_live_with(self, error: Exception, *, asked: bool) -> Exception:
        """Return an error that the retriever's order may stand in for, and raise others."""
        mistake = False
        if isinstance(self._backend, ApiBackend):  # what came outside of its requests, as while it streamed
            error = self._backend.explain(error, parses=True) or error
            mistake = self._backend.is_mistake(error)
        ours = isinstance(error, (ReGeSError, AssertionError)) and not isinstance(error, LLMServerError)
        if self._settings.on_error == "raise" or ours or mistake or not asked:
            raise error
        # Of other errors the class only: what they say may hold a key.
        what = error.message if isinstance(error, LLMServerError) else type(error).__name__
        logger.warning("%s could not choose (%s); keeping retrieval order", self._backend.name, what)
        return error

    def _ranking(
        self,
        candidates: Sequence[Candidate],
        prompt: SelectionPrompt,
        selection: Selection,
        of_prior: dict[str, Any],
        sent: Tally,
        error: Exception | None,
    ) -> Ranking:
        ranked = ranked_candidates(candidates, selection)
        thought = selection.reasoning
        report = {
            "mode": self.mode if isinstance(self._backend, LocalBackend) else "api",
            "adapter": self._backend.adapter,
            "requests": sent.requests,
            "retries": sent.retries,
            "error": error.kind if isinstance(error, LLMServerError) else error and type(error).__name__,
            "candidates": len(candidates),
            "candidates_shortened": prompt.candidates.shortened,
            "shortened_by": prompt.candidates.cut_by,
            "candidate_tokens": prompt.candidates.tokens,
            "messages_dropped": prompt.history.dropped,
            "message_shortened": prompt.history.shortened,
            "outcome": selection.outcome,
            "answer": selection.answer,
            # Where the order and, if there are any, the probabilities come from.
            "score_source": "retrieval" if selection.outcome == "hallucinated" else selection.outcome,
            "fallbacks": selection.fallbacks,
            **selection.details,
            **of_prior,
        }
        if thought is not None:
            report |= {
                "reasoning": thought.text,
                "reasoning_tokens": thought.tokens,
                "reasoning_cut": thought.cut,
            }
        if error is not None:
            report["outcome"] = "failed"
        dispatcher.event(
            ItemSelectedEvent(
                model=self._backend.name,
                adapter=self._backend.adapter,
                messages=list(prompt.messages),
                prompt_tokens=prompt.tokens,
                history_tokens=prompt.history.tokens,
                candidate_tokens=prompt.candidates.tokens,
                item_id=ranked[0].item.id,
                candidates=[CandidateScore.of(candidate) for candidate in ranked],
                outcome=report["outcome"],
                answer=selection.answer,
                reasoning=thought.text if thought is not None else None,
                reasoning_tokens=thought.tokens if thought is not None else 0,
            )
        )
        if self._settings.verbose:
            for candidate in ranked[: self.top_n]:
                logger.info("%3d %s %s", candidate.rank, candidate.probability, candidate.item.title)
        return Ranking(ranked, {"rerank": report})

    # -- LlamaIndex --------------------------------------------------------------------------------

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return self._returned(self.rank(nodes, _needed(query_bundle)))

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return self._returned(await self.arank(nodes, _needed(query_bundle)))

    def _returned(self, ranking: Ranking) -> list[NodeWithScore]:
        nodes = [candidate.node for candidate in ranking.candidates[: self.top_n]]
        if nodes:  # an engine of LlamaIndex passes on nothing else
            before = nodes[0].node.metadata.get(REPORT_KEY, {})
            nodes[0] = with_metadata(nodes[0], {REPORT_KEY: {**before, **ranking.report}})
        return nodes


def _needed(query_bundle: QueryBundle | None) -> QueryBundle:
    if query_bundle is None:
        raise InputError("ReGeSRerank needs the query bundle", hint="pass query_bundle= or query_str=")
    return query_bundle
