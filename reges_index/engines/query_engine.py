"""`ReGeSQueryEngine`: one dialogue in, one catalog item out (section 2.1, figure 2, right side)."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self, Unpack

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.callbacks import CallbackManager
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.instrumentation.events.query import QueryEndEvent, QueryStartEvent
from llama_index.core.prompts.mixin import PromptMixinType
from llama_index.core.schema import NodeWithScore, QueryBundle, QueryType
from llama_index.core.vector_stores import MetadataFilters
from llama_index_instrumentation import get_dispatcher

from reges_index.catalog import ItemCatalog, LiveCatalog
from reges_index.dialogue import Dialogue, DialogueQueryBundle
from reges_index.dialogue.messages import as_id
from reges_index.dialogue.wording import MOVIES, Domain
from reges_index.driver import Do, Work, arun, off_loop, run
from reges_index.engines.recommendation import Recommendation, ranking_of_retriever
from reges_index.engines.retrieval import (
    CatalogSource,
    Found,
    RetrieverSource,
    filters_of,
    retrieving,
    turn_of,
    with_filters,
)
from reges_index.errors import ConfigError, InputError
from reges_index.item_expert.synthesizer import ReGeSSynthesizer
from reges_index.settings import EngineOptions, PipelineSettings

if TYPE_CHECKING:
    from llama_index.core.llms.llm import LLM

    from reges_index.engines.plan import Plan
    from reges_index.fusion.model import FusionModel
    from reges_index.item_expert.ranking import Ranking
    from reges_index.item_expert.rerank import ReGeSRerank
    from reges_index.models.local_lm import LocalLM
    from reges_index.query_expert.transform import ReGeSQueryTransform

__all__ = ["ReGeSQueryEngine", "as_bundle", "barring", "unique_ids"]

dispatcher = get_dispatcher(__name__)


class ReGeSQueryEngine(BaseQueryEngine):
    """The whole of ReGeS as a LlamaIndex query engine: four parts, of which the two experts are optional.

    ``query`` takes a `DialogueQueryBundle` (``DialogueQueryBundle.from_dialogue(messages)``) or a string,
    which counts as one message of the user. `recommend` takes any form of a dialogue and returns the full
    result instead of a response.

    Parameters
    ----------
    retrieve
        Makes a retriever for a number of items: ``lambda k: catalog.as_retriever(similarity_top_k=k)``; or
        a retriever, whose own top-k then stays (more is retrieved where something must not be recommended and
        it is a `VectorIndexRetriever` or this package's).
    query_transform
        The query expert; None searches with the dialogue.
    rerank
        The item expert; None leaves the retriever's order, and its probabilities where it gives any.
    response_synthesizer
        Words the answer.
    similarity_top_k
        Items to retrieve (k of the paper, 50 there). A retriever that was given keeps its own number.
    rerank_top_k
        How many of them the item expert sees; None shows it all.
    top_n
        How many nodes a response has; None is all that were ranked.
    exclude_mentioned
        Never recommend what the dialogue names.
    domain
        What an item is called; by default as the experts call it.
    """

    def __init__(
        self,
        retrieve: RetrieverSource,
        query_transform: ReGeSQueryTransform | None = None,
        rerank: ReGeSRerank | None = None,
        response_synthesizer: ReGeSSynthesizer | None = None,
        *,
        similarity_top_k: int = 50,
        rerank_top_k: int | None = None,
        top_n: int | None = None,
        exclude_mentioned: bool = True,
        domain: Domain | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        for name, number in (
            ("similarity_top_k", similarity_top_k),
            ("rerank_top_k", rerank_top_k),
            ("top_n", top_n),
        ):
            if number is not None and number < 1:
                raise ConfigError(f"{name}={number} leaves nothing", hint="use 1 or more")
        super().__init__(callback_manager=callback_manager)
        self._retrieve_with = retrieve
        self._query_transform = query_transform
        self._rerank = rerank
        self._synthesizer = response_synthesizer or ReGeSSynthesizer()
        for part in (rerank, self._synthesizer):
            if part is not None:
                part.callback_manager = self.callback_manager
        self.similarity_top_k = similarity_top_k
        self.rerank_top_k = rerank_top_k
        self.top_n = top_n
        self.exclude_mentioned = exclude_mentioned
        self._domain = domain
        # What the parts do not know of themselves: names of what they were made from.
        self._made_by = PipelineSettings()

    @classmethod
    def from_defaults(
        cls,
        catalog: ItemCatalog | LiveCatalog | BaseRetriever | None = None,
        *,
        retriever: BaseRetriever | FusionModel | str = "auto",
        llm: LLM | LocalLM | str | None = None,
        query_llm: LLM | LocalLM | str | None = None,
        query_transform: ReGeSQueryTransform | None = None,
        rerank: ReGeSRerank | None = None,
        response_synthesizer: ReGeSSynthesizer | None = None,
        settings: PipelineSettings | None = None,
        callback_manager: CallbackManager | None = None,
        **options: Unpack[EngineOptions],
    ) -> ReGeSQueryEngine:
        """Build an engine over a catalog or a retriever, with defaults for all the rest.

        What runs is decided by one rule (`reges_index.engines.plan`), and ``print(engine.plan)`` shows it.

        Parameters
        ----------
        catalog
            Where items come from. A retriever may also come first, as in ``RetrieverQueryEngine.from_args``.
        retriever
            "fusion" (many sources, trained), "vectors" (the paper's), a LlamaIndex retriever, or a
            `FusionModel` or its folder. "auto" is the fusion where the catalog's encoder fits it, else
            vectors.
        llm
            The item expert: any LlamaIndex LLM, a `LocalLM`, or a name such as "embedded" or
            "openai-like:MODEL@URL". It always ranks. None: there is no item expert, and the retriever's
            order is the ranking.
        query_llm
            Another LLM for the query expert; one that is given writes a query even if the retriever reads
            none. By default ``llm``, or the embedded model.
        query_transform, rerank, response_synthesizer
            Parts of your own, which keep their own options.
        settings
            What the options start from; a preset, for example.
        options
            All of `PipelineSettings` by name, such as ``write_query="always"``, ``exclude_mentioned=False``,
            ``similarity_top_k=20``, ``mode="reason"``, ``prior_weight=2.0``, ``filters=...`` or
            ``on_error="retrieval_order"``, which goes to every part.

        Raises
        ------
        ConfigError
            If there is no such option, or options contradict each other or the parts that are given; it names
            the option and the way out.
        EncoderMismatchError
            If the fusion is asked for and does not fit the catalog's encoder.
        """
        from reges_index.engines.assembly import assembled

        return assembled(
            cls,
            catalog,
            retriever=retriever,
            llm=llm,
            query_llm=query_llm,
            query_transform=query_transform,
            rerank=rerank,
            response_synthesizer=response_synthesizer,
            settings=settings,
            callback_manager=callback_manager,
            options=options,
        )

    # -- what it is made of ------------------------------------------------------------------------

    @property
    def query_transform(self) -> ReGeSQueryTransform | None:
        """The query expert."""
        return self._query_transform

    @property
    def rerank(self) -> ReGeSRerank | None:
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
    def filters(self) -> MetadataFilters | None:
        """What every recommendation obeys; None where that is nothing, or known to a stock retriever only."""
        return filters_of(self._retrieve_with)

    @property
    def catalog(self) -> ItemCatalog | None:
        """The catalog that `from_defaults` got; None where candidates come from somewhere else.

        Of a live catalog it is the version that is live now.
        """
        return self._retrieve_with.current if isinstance(self._retrieve_with, CatalogSource) else None

    @property
    def domain(self) -> Domain:
        """What an item is called in prompts."""
        experts = (self._rerank, self._query_transform)
        called = (self._domain, *(expert.domain for expert in experts if expert is not None), MOVIES)
        return next(domain for domain in called if domain is not None)

    @property
    def nodes_shown(self) -> int | None:
        """How many nodes a response has: ``top_n``, or else the item expert's; None is all."""
        return self.top_n if self.top_n is not None or self._rerank is None else self._rerank.top_n

    @property
    def settings(self) -> PipelineSettings:
        """All that the engine is made of, as it is now; what has no name is called given."""
        from reges_index.engines.plan import settings_of

        return settings_of(self, self._made_by)

    @property
    def plan(self) -> Plan:
        """Who writes the query, who retrieves, who ranks and who words the answer, and why."""
        from reges_index.engines.plan import plan_of

        return plan_of(self, self._made_by)

    def with_filters(self, filters: MetadataFilters | None, *, exclude_mentioned: bool | None = None) -> Self:
        """Return an engine like this one whose recommendations obey other filters; this one stays as it is.

        Experts, catalog and what the fusion has prepared are shared, so it costs nothing to make one for
        every user or turn.

        Parameters
        ----------
        filters
            LlamaIndex metadata filters in place of this engine's; None is no restriction. To add to
            them pass ``all_of(engine.filters, filters)``, with `reges_index.catalog.filters.all_of`.
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

    def _get_prompt_modules(self) -> PromptMixinType:
        parts = {
            "query_transform": self._query_transform,
            "rerank": self._rerank,
            "response_synthesizer": self._synthesizer,
        }
        return {name: part for name, part in parts.items() if part is not None}

    # -- the stages, each as work for `reges_index.driver` -----------------------------------------

    def turn(self) -> AbstractContextManager[object]:
        """Return a block in which all recommendations come from one version of a live catalog.

        Each recommendation is such a block already; put one around several that belong together.
        """
        return turn_of(self._retrieve_with)

    def writing(self, bundle: DialogueQueryBundle) -> Work[DialogueQueryBundle]:
        """Let the query expert write the query (section 2.3), if there is one."""
        expert = self._query_transform
        if expert is None:
            return bundle
        refined: DialogueQueryBundle = yield Do(partial(expert.run, bundle), partial(expert.arun, bundle))
        return refined

    def retrieving(self, bundle: DialogueQueryBundle, exclude_ids: Iterable[str] = ()) -> Work[Found]:
        """Search the catalog, and take out what must not be recommended."""
        with self.turn():  # one version of a live catalog, whatever is swapped meanwhile
            return (
                yield from retrieving(
                    self._retrieve_with,
                    bundle,
                    top_k=self.similarity_top_k,
                    exclude_ids=unique_ids([*bundle.exclude_ids, *unique_ids(exclude_ids)]),
                    exclude_mentioned=self.exclude_mentioned,
                )
            )

    def ranking(self, found: Found, bundle: DialogueQueryBundle) -> Work[Ranking]:
        """Let the item expert rank what was found (section 2.4), or keep the retriever's order."""
        expert, nodes = self._rerank, found.nodes[: self.rerank_top_k]
        if expert is None:
            ranking: Ranking = yield off_loop(ranking_of_retriever, nodes)
        else:
            ranking = yield Do(partial(expert.rank, nodes, bundle), partial(expert.arank, nodes, bundle))
        return ranking

    def recommending(
        self, dialogue: Dialogue | QueryBundle, exclude_ids: Iterable[str] = ()
    ) -> Work[Recommendation]:
        """Go from a dialogue to a recommendation: query, retrieval, ranking."""
        bundle, barred = as_bundle(dialogue), unique_ids(exclude_ids)
        start = time.perf_counter()
        with self.turn():
            refined = yield from self.writing(bundle)
            return (yield from self._chosen(refined, barred, time.perf_counter() - start))

    def _chosen(
        self, refined: DialogueQueryBundle, barred: Iterable[str], query_seconds: float
    ) -> Work[Recommendation]:
        times = [time.perf_counter()]
        found = yield from self.retrieving(refined, barred)
        times.append(time.perf_counter())
        ranking = yield from self.ranking(found, refined)
        times.append(time.perf_counter())
        return self.recommendation(
            refined, ranking, found, (query_seconds, times[1] - times[0], times[2] - times[1])
        )

    def recommendation(
        self, bundle: DialogueQueryBundle, ranking: Ranking, found: Found, seconds: Sequence[float]
    ) -> Recommendation:
        """Put together what the stages gave.

        Parameters
        ----------
        seconds
            What writing the query, retrieval and ranking took.
        """
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
            timings=dict(zip(("query", "retrieval", "rerank"), seconds, strict=True)),
            report=report,
            top_n=self.nodes_shown,
        )

    def answering(self, found: Recommendation) -> Work[RESPONSE_TYPE]:
        """Turn a recommendation into a response with its timings in the metadata."""
        words = self._synthesizer
        response: RESPONSE_TYPE = yield Do(
            partial(words.synthesize, found.bundle, found.nodes),
            partial(words.asynthesize, found.bundle, found.nodes),
        )
        response.metadata = {**(response.metadata or {}), "timings": found.timings}
        return response

    # -- asking it ---------------------------------------------------------------------------------

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
        return run(self.recommending(dialogue, exclude_ids))

    async def arecommend(
        self, dialogue: Dialogue | QueryBundle, *, exclude_ids: Iterable[str] = ()
    ) -> Recommendation:
        """Recommend without blocking the event loop; see `recommend`."""
        return await arun(self.recommending(dialogue, exclude_ids))

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
        bundles = [as_bundle(dialogue) for dialogue in dialogues]
        start = time.perf_counter()
        with self.turn():
            if self._query_transform is not None:
                bundles = self._query_transform.run_batch(bundles)
            each = (time.perf_counter() - start) / max(1, len(dialogues))
            return [
                run(self._chosen(bundle, unique_ids(ids), each))
                for bundle, ids in zip(bundles, barred, strict=True)
            ]

    def answer(self, found: Recommendation) -> RESPONSE_TYPE:
        """Turn a recommendation into a response with its timings in the metadata."""
        return run(self.answering(found))

    async def aanswer(self, found: Recommendation) -> RESPONSE_TYPE:
        """Turn a recommendation into a response without blocking the event loop."""
        return await arun(self.answering(found))

    # -- LlamaIndex --------------------------------------------------------------------------------

    def query(
        self, str_or_query_bundle: QueryType | Dialogue, *, exclude_ids: Iterable[str] = ()
    ) -> RESPONSE_TYPE:
        """Answer as every LlamaIndex query engine does, also to a list of messages.

        Items of ``exclude_ids`` are not recommended.
        """
        return run(self._asked(str_or_query_bundle, exclude_ids))

    async def aquery(
        self, str_or_query_bundle: QueryType | Dialogue, *, exclude_ids: Iterable[str] = ()
    ) -> RESPONSE_TYPE:
        """Answer without blocking the event loop; see `query`."""
        return await arun(self._asked(str_or_query_bundle, exclude_ids))

    def _asked(self, query: QueryType | Dialogue, exclude_ids: Iterable[str]) -> Work[RESPONSE_TYPE]:
        # What BaseQueryEngine does around `_query`, which knows no items that must not be recommended.
        if not isinstance(query, str | QueryBundle):
            query = as_bundle(query)
        dispatcher.event(QueryStartEvent(query=query))
        with self.callback_manager.as_trace("query"):
            bundle = QueryBundle(query) if isinstance(query, str) else query
            barred = unique_ids(exclude_ids)
            asked = barring(bundle, barred) if barred else bundle
            response: RESPONSE_TYPE = yield Do(partial(self._query, asked), partial(self._aquery, asked))
        dispatcher.event(QueryEndEvent(query=bundle, response=response))
        return response

    def retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        """Return the ranked candidates as nodes, best first, ``top_n`` of them."""
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

    def _querying(self, bundle: QueryBundle) -> Work[RESPONSE_TYPE]:
        payload: dict[str, Any] = {EventPayload.QUERY_STR: bundle.query_str}
        with self.callback_manager.event(CBEventType.QUERY, payload=payload) as event:
            found = yield from self.recommending(bundle)
            response = yield from self.answering(found)
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        return run(self._querying(query_bundle))

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        return await arun(self._querying(query_bundle))


def as_bundle(dialogue: Dialogue | QueryBundle) -> DialogueQueryBundle:
    """Return any form of a dialogue as a query bundle that carries it."""
    if isinstance(dialogue, DialogueQueryBundle):
        return dialogue
    if isinstance(dialogue, QueryBundle):
        return DialogueQueryBundle.from_dialogue(dialogue.query_str)
    return DialogueQueryBundle.from_dialogue(dialogue)


def unique_ids(ids: Iterable[str]) -> list[str]:
    """Return ids as text, without repeats; a text, which is a sequence of letters, is refused."""
    if isinstance(ids, str):
        raise InputError(f"exclude_ids is the text {ids!r}", hint=f"give a list: [{ids!r}]")
    given = [as_id(one) for one in ids]
    for one in given:
        if not isinstance(one, str):
            raise InputError(f"exclude_ids holds {one!r}, which is no id", hint="ids are texts or integers")
    return list(dict.fromkeys(given))


def barring(query: Dialogue | QueryBundle, exclude_ids: Iterable[str]) -> DialogueQueryBundle:
    """Return a dialogue in any form as a bundle that names items which must not be recommended."""
    bundle, barred = as_bundle(query), unique_ids(exclude_ids)
    return replace(bundle, exclude_ids=(*bundle.exclude_ids, *barred)) if barred else bundle
