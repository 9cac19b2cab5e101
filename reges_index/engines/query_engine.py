"""`ReGeSQueryEngine`: one dialogue in, one catalog item out (section 2.1, figure 2, right side)."""

from __future__ import annotations

import asyncio
import copy
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Literal

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.callbacks import CallbackManager
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts.mixin import PromptMixinType
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores import MetadataFilters

from reges_index.catalog import ItemCatalog, LiveCatalog
from reges_index.dialogue import Dialogue, DialogueQueryBundle
from reges_index.dialogue.wording import MOVIES, Domain
from reges_index.engines.assembly import engine_parts
from reges_index.engines.recommendation import Recommendation
from reges_index.engines.retrieval import (
    CatalogSource,
    Found,
    RetrieverSource,
    aretrieve,
    retrieve,
    turn_of,
    with_filters,
)
from reges_index.errors import ConfigError, InputError
from reges_index.fusion.model import FusionModel
from reges_index.item_expert.rerank import Ranking, ReGeSRerank
from reges_index.item_expert.synthesizer import ReGeSSynthesizer
from reges_index.models.local_lm import LocalLM
from reges_index.query_expert.transform import ReGeSQueryTransform

__all__ = ["ReGeSQueryEngine", "as_bundle", "unique_ids"]


class ReGeSQueryEngine(BaseQueryEngine):
    """The whole of ReGeS as a LlamaIndex query engine.

    ``query`` takes a `DialogueQueryBundle` (``DialogueQueryBundle.from_dialogue(messages)``) or a string,
    which counts as one message of the user. `recommend` takes any form of a dialogue and returns the full
    result instead of a response.

    Parameters
    ----------
    retrieve
        Makes a retriever for a number of items: ``lambda k: catalog.as_retriever(similarity_top_k=k)``; or
        a retriever, whose own top-k then stays.
    query_transform, rerank, response_synthesizer
        The two experts and the answer.
    similarity_top_k
        Items to retrieve (k of the paper, 50 there). A retriever that was given keeps its own number.
    rerank_top_k
        How many of them the item expert sees; None shows it all.
    exclude_mentioned
        Never recommend what the dialogue names (`find_mentions`).
    choice
        Ranks the item expert's ranking again, such as `FusionModel.choose`; None leaves it as it is, which is
        the paper.
    rank_alone
        Ranks in the item expert's place, which is then not asked, such as `FusionModel.rank_alone`.
    """

    def __init__(
        self,
        retrieve: RetrieverSource,
        query_transform: ReGeSQueryTransform,
        rerank: ReGeSRerank,
        response_synthesizer: ReGeSSynthesizer | None = None,
        *,
        similarity_top_k: int = 50,
        rerank_top_k: int | None = None,
        exclude_mentioned: bool = False,
        choice: Callable[[Ranking], Ranking] | None = None,
        rank_alone: Callable[[Sequence[NodeWithScore]], Ranking] | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        if similarity_top_k < 1:
            raise ConfigError(f"similarity_top_k={similarity_top_k} retrieves nothing", hint="use 1 or more")
        if rerank_top_k is not None and rerank_top_k < 1:
            raise ConfigError(f"rerank_top_k={rerank_top_k} ranks nothing", hint="use 1 or more, or None")
        super().__init__(callback_manager=callback_manager)
        self._retrieve_with = retrieve
        self._query_transform = query_transform
        self._rerank = rerank
        self._synthesizer = response_synthesizer or ReGeSSynthesizer()
        self._rerank.callback_manager = self.callback_manager
        self._synthesizer.callback_manager = self.callback_manager
        self.similarity_top_k = similarity_top_k
        self.rerank_top_k = rerank_top_k
        self.exclude_mentioned = exclude_mentioned
        self._choice = choice
        self._rank_alone = rank_alone

    @classmethod
    def from_defaults(
        cls,
        catalog: ItemCatalog | LiveCatalog | None = None,
        *,
        retriever: BaseRetriever | None = None,
        llm: LLM | LocalLM | None = None,
        query_llm: LLM | LocalLM | None = None,
        similarity_top_k: int = 50,
        rerank_top_k: int | None = None,
        fusion: FusionModel | None = None,
        filters: MetadataFilters | None = None,
        exclude_mentioned: bool = False,
        domain: Domain = MOVIES,
        query_transform: ReGeSQueryTransform | None = None,
        rerank: ReGeSRerank | None = None,
        response_synthesizer: ReGeSSynthesizer | None = None,
        on_error: Literal["raise", "retrieval_order"] = "raise",
        callback_manager: CallbackManager | None = None,
        verbose: bool = False,
        **rerank_kwargs: Any,
    ) -> ReGeSQueryEngine:
        """Build an engine from a catalog or a retriever, with defaults for all the rest.

        Parameters
        ----------
        catalog, retriever
            Exactly one of them.
        llm
            For both experts, each with its own adapter where the model holds it; None takes the embedded
            default.
        query_llm
            Another model for the query expert.
        fusion
            Beyond the paper: retrieve with `FusionRetriever` and let `FusionModel.choose` have the last word,
            without LLM_G where that has no weight in it; with a catalog only. None is the paper's pipeline.
        filters
            LlamaIndex metadata filters that every recommendation obeys; with a catalog only.
        on_error
            When the server behind an LLM gives no answer, after all retries: "raise" an `LLMServerError`, or
            "retrieval_order" to recommend all the same: search with the seeker's last message, keep the
            retriever's order, answer with the title, and say so in the report. A ``query_transform`` or
            ``response_synthesizer`` that is given keeps its own.
        rerank_kwargs
            Passed to `ReGeSRerank` (``mode``, ``max_input_tokens``, ...).

        Raises
        ------
        ConfigError
            If neither or both of catalog and retriever are given, or options of a part that is given too.
        """
        parts = engine_parts(
            catalog,
            retriever=retriever,
            llm=llm,
            query_llm=query_llm,
            similarity_top_k=similarity_top_k,
            rerank_top_k=rerank_top_k,
            fusion=fusion,
            filters=filters,
            domain=domain,
            query_transform=query_transform,
            rerank=rerank,
            response_synthesizer=response_synthesizer,
            on_error=on_error,
            verbose=verbose,
            rerank_options=rerank_kwargs,
        )
        return cls(
            parts.retrieve,
            parts.query_transform,
            parts.rerank,
            parts.response_synthesizer,
            similarity_top_k=similarity_top_k,
            rerank_top_k=rerank_top_k,
            exclude_mentioned=exclude_mentioned,
            choice=parts.choice,
            rank_alone=parts.rank_alone,
            callback_manager=callback_manager,
        )

    def with_filters(
        self, filters: MetadataFilters | None, *, exclude_mentioned: bool | None = None
    ) -> ReGeSQueryEngine:
        """Return an engine like this one whose recommendations obey other filters; this one stays as it is.

        Experts, catalog and what the fusion has prepared are shared, so it costs nothing to make one for
        every user or turn.

        Parameters
        ----------
        filters
            LlamaIndex metadata filters in place of this engine's; None is no restriction.
        exclude_mentioned
            None keeps this engine's.

        Raises
        ------
        ConfigError
            If the engine does not retrieve from a catalog: the filters are then its retriever's.
        """
        other = copy.copy(self)
        other._retrieve_with = with_filters(self._retrieve_with, filters)
        if exclude_mentioned is not None:
            other.exclude_mentioned = exclude_mentioned
        return other

    @property
    def query_transform(self) -> ReGeSQueryTransform:
        """The query expert."""
        return self._query_transform

    @property
    def rerank(self) -> ReGeSRerank:
        """The item expert."""
        return self._rerank

    @property
    def response_synthesizer(self) -> ReGeSSynthesizer:
        """What words the answer."""
        return self._synthesizer

    @property
    def retrieve_with(self) -> RetrieverSource:
        """Where candidates come from, as it was given or as `from_defaults` made it."""
        return self._retrieve_with

    @property
    def choice(self) -> Callable[[Ranking], Ranking] | None:
        """What ranks the item expert's ranking again."""
        return self._choice

    @property
    def rank_alone(self) -> Callable[[Sequence[NodeWithScore]], Ranking] | None:
        """What ranks in the item expert's place."""
        return self._rank_alone

    @property
    def catalog(self) -> ItemCatalog | None:
        """The catalog that `from_defaults` got; None where candidates come from somewhere else.

        Of a live catalog it is the version that is live now.
        """
        return self._retrieve_with.current if isinstance(self._retrieve_with, CatalogSource) else None

    def turn(self) -> AbstractContextManager[object]:
        """Return a block in which all recommendations come from one version of a live catalog.

        Each recommendation is such a block already; put one around several that belong together.
        """
        return turn_of(self._retrieve_with)

    @property
    def domain(self) -> Domain:
        """What an item is called in prompts."""
        return self._query_transform.domain

    def _get_prompt_modules(self) -> PromptMixinType:
        return {
            "query_transform": self._query_transform,
            "rerank": self._rerank,
            "response_synthesizer": self._synthesizer,
        }

    # -- the stages ----------------------------------------------------------------------------------

    def _how_to_retrieve(self, exclude: Sequence[str]) -> dict[str, Any]:
        return {
            "top_k": self.similarity_top_k,
            "exclude_ids": exclude,
            "exclude_mentioned": self.exclude_mentioned,
        }

    def _final(self, ranking: Ranking) -> Ranking:
        return ranking if self._choice is None else self._choice(ranking)

    def rank_candidates(self, found: Found, bundle: DialogueQueryBundle) -> Ranking:
        """Rank what retrieval found: by the item expert and the final choice, or by what stands in for it."""
        candidates = found.nodes[: self.rerank_top_k]
        if self._rank_alone is not None:
            return self._rank_alone(candidates)
        return self._final(self._rerank.rank(candidates, bundle))

    async def arank_candidates(self, found: Found, bundle: DialogueQueryBundle) -> Ranking:
        """Do `rank_candidates` without blocking the event loop."""
        candidates = found.nodes[: self.rerank_top_k]
        if self._rank_alone is not None:
            return await asyncio.to_thread(self._rank_alone, candidates)
        return self._final(await self._rerank.arank(candidates, bundle))

    def recommendation(
        self, bundle: DialogueQueryBundle, ranking: Ranking, found: Found, seconds: Sequence[float]
    ) -> Recommendation:
        """Put together what the stages gave.

        Parameters
        ----------
        seconds
            What writing the query, retrieval and ranking took.
        """
        timings = dict(zip(("query", "retrieval", "rerank"), seconds, strict=True))
        report = {
            **bundle.report,
            **ranking.report,
            "retrieval": {"retrieved": found.retrieved, "excluded": found.excluded},
        }
        return Recommendation(
            bundle=replace(bundle, report=report),
            candidates=ranking.candidates,
            rest=tuple(found.nodes[self.rerank_top_k :]) if self.rerank_top_k else (),
            excluded=found.excluded,
            timings=timings,
            report=report,
        )

    def recommend(
        self, dialogue: Dialogue | QueryBundle, *, exclude_ids: Iterable[str] = ()
    ) -> Recommendation:
        """Recommend one item for a dialogue and return everything that is known about the choice.

        Parameters
        ----------
        dialogue
            A string, a `Turn`, messages, or a query bundle.
        exclude_ids
            Items that must not be recommended, whatever the dialogue says.

        Raises
        ------
        InputError
            If the dialogue is empty, or the candidates do not fit into the model's context.
        """
        start = time.perf_counter()
        with self.turn():
            refined = self._query_transform.run(as_bundle(dialogue))
            return self._choose(refined, exclude_ids, time.perf_counter() - start)

    def recommend_batch(
        self,
        dialogues: Sequence[Dialogue | QueryBundle],
        *,
        exclude_ids: Sequence[Iterable[str]] | None = None,
    ) -> list[Recommendation]:
        """Recommend for many dialogues; a local query expert writes their queries in batches.

        Parameters
        ----------
        exclude_ids
            For each dialogue the items that must not be recommended; None allows everything.

        Returns
        -------
        list of Recommendation
            In the order of the dialogues. The query's seconds are the batch's divided by its size.
        """
        barred = exclude_ids if exclude_ids is not None else [()] * len(dialogues)
        if len(barred) != len(dialogues):
            raise InputError(f"{len(barred)} lists of exclude_ids for {len(dialogues)} dialogues")
        start = time.perf_counter()
        with self.turn():
            refined = self._query_transform.run_batch([as_bundle(dialogue) for dialogue in dialogues])
            each = (time.perf_counter() - start) / max(1, len(dialogues))
            return [self._choose(bundle, ids, each) for bundle, ids in zip(refined, barred, strict=True)]

    def _choose(
        self, refined: QueryBundle, exclude_ids: Iterable[str], query_seconds: float
    ) -> Recommendation:
        assert isinstance(refined, DialogueQueryBundle)
        exclude = unique_ids(exclude_ids)
        times = [time.perf_counter()]
        found = retrieve(self._retrieve_with, refined, **self._how_to_retrieve(exclude))
        times.append(time.perf_counter())
        ranking = self.rank_candidates(found, refined)
        times.append(time.perf_counter())
        seconds = [after - before for before, after in itertools.pairwise(times)]
        return self.recommendation(refined, ranking, found, [query_seconds, *seconds])

    async def arecommend(
        self, dialogue: Dialogue | QueryBundle, *, exclude_ids: Iterable[str] = ()
    ) -> Recommendation:
        """Recommend without blocking the event loop; see `recommend`."""
        bundle, exclude = as_bundle(dialogue), unique_ids(exclude_ids)
        start = time.perf_counter()
        with self.turn():
            refined = await self._query_transform.arun(bundle)
            times = [time.perf_counter()]
            found = await aretrieve(self._retrieve_with, refined, **self._how_to_retrieve(exclude))
        times.append(time.perf_counter())
        ranking = await self.arank_candidates(found, refined)
        times.append(time.perf_counter())
        seconds = [after - before for before, after in itertools.pairwise([start, *times])]
        return self.recommendation(refined, ranking, found, seconds)

    # -- LlamaIndex ------------------------------------------------------------------------------------

    def retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        """Return the ranked candidates as nodes, best first."""
        return self.recommend(query_bundle).nodes

    async def aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        """Return the ranked candidates without blocking the event loop."""
        return (await self.arecommend(query_bundle)).nodes

    def synthesize(
        self,
        query_bundle: QueryBundle,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
    ) -> RESPONSE_TYPE:
        """Return the answer for nodes that are ranked already."""
        return self._synthesizer.synthesize(query_bundle, nodes, additional_source_nodes)

    async def asynthesize(
        self,
        query_bundle: QueryBundle,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
    ) -> RESPONSE_TYPE:
        """Return the answer for nodes that are ranked already."""
        return await self._synthesizer.asynthesize(query_bundle, nodes, additional_source_nodes)

    def answer(self, found: Recommendation) -> RESPONSE_TYPE:
        """Turn a recommendation into a response with its timings in the metadata."""
        return _with_timings(self._synthesizer.synthesize(found.bundle, found.nodes), found)

    async def aanswer(self, found: Recommendation) -> RESPONSE_TYPE:
        """Turn a recommendation into a response without blocking the event loop."""
        return _with_timings(await self._synthesizer.asynthesize(found.bundle, found.nodes), found)

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        payload: dict[str, Any] = {EventPayload.QUERY_STR: query_bundle.query_str}
        with self.callback_manager.event(CBEventType.QUERY, payload=payload) as event:
            response = self.answer(self.recommend(query_bundle))
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        payload: dict[str, Any] = {EventPayload.QUERY_STR: query_bundle.query_str}
        with self.callback_manager.event(CBEventType.QUERY, payload=payload) as event:
            response = await self.aanswer(await self.arecommend(query_bundle))
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response


def as_bundle(dialogue: Dialogue | QueryBundle) -> QueryBundle:
    """Return any form of a dialogue as a query bundle that carries it."""
    if isinstance(dialogue, DialogueQueryBundle):
        return dialogue
    if isinstance(dialogue, QueryBundle):
        return DialogueQueryBundle.from_dialogue(dialogue.query_str)
    return DialogueQueryBundle.from_dialogue(dialogue)


def unique_ids(ids: Iterable[str]) -> list[str]:
    """Return ids without repeats; a text, which is a sequence of letters, is refused."""
    if isinstance(ids, str):
        raise InputError(f"exclude_ids is the text {ids!r}", hint=f"give a list: [{ids!r}]")
    return list(dict.fromkeys(ids))


def _with_timings(response: RESPONSE_TYPE, found: Recommendation) -> RESPONSE_TYPE:
    response.metadata = {**(response.metadata or {}), "timings": found.timings}
    return response
