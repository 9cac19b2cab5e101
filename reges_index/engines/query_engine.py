"""`ReGeSQueryEngine`: one dialogue in, one catalog item out (section 2.1, figure 2, right side)."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
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

from reges_index.catalog import Item, ItemCatalog, LiveCatalog
from reges_index.dialogue import Dialogue, DialogueQueryBundle
from reges_index.dialogue.render import unique_ids
from reges_index.dialogue.wording import MOVIES, Domain
from reges_index.driver import Do, Work, arun, off_loop, run
from reges_index.engines import assembly
from reges_index.engines.plan import Plan, plan_of, reads_query, settings_of, writes_query
from reges_index.engines.retrieval import Found, catalog_of, is_own, retrieving, turn_of
from reges_index.errors import ConfigError, InputError
from reges_index.item_expert.ranking import RankedCandidate, Ranking, ranking_of_retriever
from reges_index.item_expert.synthesizer import ReGeSSynthesizer
from reges_index.settings import GIVEN, EngineOptions, PipelineSettings

if TYPE_CHECKING:
    from llama_index.core.llms.llm import LLM

    from reges_index.fusion.model import FusionModel
    from reges_index.item_expert.rerank import ReGeSRerank
    from reges_index.models.local_lm import LocalLM
    from reges_index.query_expert.transform import ReGeSQueryTransform

dispatcher = get_dispatcher(__name__)


@dataclass(frozen=True)
class Recommendation:
    """What ReGeS answers to one dialogue.

    Attributes
    ----------
    bundle
        The dialogue, with the refined query where one was written.
    candidates
        What the item expert ranked, best first, or without one what was retrieved; the first one is the
        recommendation.
    rest
        What was retrieved but not shown to the item expert, in the retriever's order.
    excluded
        How many retrieved items were not allowed.
    timings
        Seconds of each stage: query, retrieval, rerank.
    report
        What was cut, what failed over, by stage.
    top_n
        How many candidates `nodes` holds; None is all.
    """

    bundle: DialogueQueryBundle
    candidates: tuple[RankedCandidate, ...]
    rest: tuple[NodeWithScore, ...]
    excluded: int
    timings: dict[str, float]
    report: dict[str, Any]
    top_n: int | None = None

    @property
    def query(self) -> str | None:
        """The refined query; None where none was written, and the dialogue was searched with."""
        written = self.bundle.custom_embedding_strs
        return written[0] if written else None

    @property
    def item(self) -> Item | None:
        """The recommended item; None when nothing was left to recommend."""
        return self.candidates[0].item if self.candidates else None

    @property
    def ranking(self) -> list[str]:
        """Ids of everything retrieved: the ranked candidates, then the rest."""
        return [c.item.id for c in self.candidates] + [Item.from_node(n.node).id for n in self.rest]

    @property
    def nodes(self) -> list[NodeWithScore]:
        """The first ``top_n`` of the ranked candidates as LlamaIndex nodes; ``candidates`` holds all."""
        return [candidate.node for candidate in self.candidates[: self.top_n]]

    def to_dict(self, top_k: int | None = None) -> dict[str, Any]:
        """Return the JSON form that ``reges recommend --json`` prints.

        Parameters
        ----------
        top_k
            How many candidates to list; None lists all.
        """
        best = self.candidates[0] if self.candidates else None
        return {
            "query": self.query,
            "recommendation": None
            if best is None
            else {"id": best.item.id, "title": best.item.title, "probability": best.probability},
            "candidates": [
                {
                    "id": c.item.id,
                    "title": c.item.title,
                    "probability": c.probability,
                    "retrieval_score": c.retrieval_score,
                    "rank": c.rank,
                }
                for c in self.candidates[:top_k]
            ],
            "timings": self.timings,
            "report": self.report,
        }


class ReGeSQueryEngine(BaseQueryEngine):
    """The whole of ReGeS as a LlamaIndex query engine: four parts, of which the two experts are optional.

    ``query`` takes a `DialogueQueryBundle` (``DialogueQueryBundle.from_dialogue(messages)``) or a string,
    which counts as one message of the user. `recommend` takes any form of a dialogue and returns the full
    result instead of a response.

    Parameters
    ----------
    retriever
        Any LlamaIndex retriever. As many items as it gives are candidates: more are retrieved where something
        must not be recommended and it is a `VectorIndexRetriever` or this package's.
    query_transform
        The query expert; None searches with the dialogue.
    rerank
        The item expert; None leaves the retriever's order, and its probabilities where it gives any.
    response_synthesizer
        Words the answer.
    rerank_top_k
        How many of the candidates the item expert sees; None shows it all.
    top_n
        How many nodes a response has; None is all that were ranked.
    exclude_mentioned
        Never recommend what the dialogue names.
    domain
        What an item is called; by default as the experts call it.
    """

    def __init__(
        self,
        retriever: BaseRetriever,
        query_transform: ReGeSQueryTransform | None = None,
        rerank: ReGeSRerank | None = None,
        response_synthesizer: ReGeSSynthesizer | None = None,
        *,
        rerank_top_k: int | None = None,
        top_n: int | None = None,
        exclude_mentioned: bool = True,
        domain: Domain | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        for name, number in (("rerank_top_k", rerank_top_k), ("top_n", top_n)):
            if number is not None and number < 1:
                raise ConfigError(f"{name}={number} leaves nothing", hint="use 1 or more")
        super().__init__(callback_manager=callback_manager)
        self.retriever = retriever
        self.query_transform = query_transform
        self.rerank = rerank
        self.response_synthesizer = response_synthesizer or ReGeSSynthesizer()
        for part in (rerank, self.response_synthesizer):
            if part is not None:
                part.callback_manager = self.callback_manager
        self.rerank_top_k = rerank_top_k
        self.top_n = top_n
        self.exclude_mentioned = exclude_mentioned
        self._domain = domain
        # What the parts do not know of themselves: names of what they were made from.
        self._made_by = PipelineSettings().with_options(retriever=GIVEN)

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
            vectors. Vectors and LlamaIndex retrievers read a written query, so an LLM is asked twice a turn:
            it writes the query, and it ranks. ``write_query="never"`` leaves out the first.
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
        catalog, retriever = assembly.check_source(catalog, retriever)
        base = assembly.settings_with(settings, options, llm=llm, query_llm=query_llm)
        if settings is not None and catalog is not None:
            assembly.check_encoder(base, catalog)
        given = [part for part in (rerank, query_transform) if part is not None]
        if given and settings is None and "domain" not in options:
            base = base.override(domain=given[0].domain)  # what is made here speaks of items as they do
        if retriever != "auto" and isinstance(retriever, str):
            base = base.with_options(retriever=retriever)
        source = assembly.retriever_of(base, catalog, retriever)
        if not isinstance(retriever, str):
            base = base.with_options(retriever=GIVEN)
        assembly.check_given(
            options,
            base,
            query_transform=query_transform,
            rerank=rerank,
            response_synthesizer=response_synthesizer,
        )
        own_query = query_transform is not None or query_llm is not None
        query = writes_query(base, reads=reads_query(source), own=own_query)
        unwritten = query.why if query.who is None else None
        ranks = rerank is not None or base.llm is not None
        assembly.check_parts(base, source, unwritten=unwritten, ranks=ranks, own_query=own_query)

        writes = query_transform is None and unwritten is None
        item_model, query_model = assembly.models_of(
            base, llm, query_llm, for_item=rerank is None, for_query=writes
        )
        if writes:
            query_transform = assembly.query_expert(base, query_model)
        if rerank is None and ranks:
            rerank = assembly.item_expert(base, item_model, options)
        engine = cls(
            source,
            query_transform,
            rerank,
            response_synthesizer or assembly.synthesizer(base, item_model, options),
            rerank_top_k=base.retrieval.rerank_top_k,
            top_n=base.answer.top_n,
            exclude_mentioned=base.retrieval.exclude_mentioned,
            domain=base.domain if "domain" in options or settings is not None else None,
            callback_manager=callback_manager,
        )
        engine._made_by = base
        return engine

    # -- what it is made of ------------------------------------------------------------------------

    @property
    def filters(self) -> MetadataFilters | None:
        """What every recommendation obeys; None where that is nothing, or known to a stock retriever only."""
        return self.retriever.filters if is_own(self.retriever) else None

    @property
    def catalog(self) -> ItemCatalog | LiveCatalog | None:
        """The catalog behind the retriever; None where candidates come from somewhere else."""
        return catalog_of(self.retriever)

    @property
    def domain(self) -> Domain:
        """What an item is called in prompts."""
        experts = (self.rerank, self.query_transform)
        called = (self._domain, *(expert.domain for expert in experts if expert is not None), MOVIES)
        return next(domain for domain in called if domain is not None)

    @property
    def nodes_shown(self) -> int | None:
        """How many nodes a response has: ``top_n``, or else the item expert's; None is all."""
        return self.top_n if self.top_n is not None or self.rerank is None else self.rerank.top_n

    @property
    def settings(self) -> PipelineSettings:
        """All that the engine is made of, as it is now; what has no name is called given."""
        return settings_of(self, self._made_by)

    @property
    def plan(self) -> Plan:
        """Who writes the query, who retrieves, who ranks and who words the answer, and why."""
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
        if not is_own(self.retriever):
            raise ConfigError(
                "this engine was built from a retriever, whose filters are its own",
                hint="set them there, or build the engine from a catalog",
            )
        other = copy.copy(self)
        other.retriever = retriever = copy.copy(self.retriever)
        retriever.filters = filters
        if exclude_mentioned is not None:
            other.exclude_mentioned = exclude_mentioned
        return other

    def _get_prompt_modules(self) -> PromptMixinType:
        parts = {
            "query_transform": self.query_transform,
            "rerank": self.rerank,
            "response_synthesizer": self.response_synthesizer,
        }
        return {name: part for name, part in parts.items() if part is not None}

    # -- the stages, each as work for `reges_index.driver` -----------------------------------------

    def turn(self) -> AbstractContextManager[object]:
        """Return a block in which all recommendations come from one version of a live catalog.

        Each recommendation is such a block already; put one around several that belong together.
        """
        return turn_of(self.retriever)

    def writing(self, bundle: DialogueQueryBundle) -> Work[DialogueQueryBundle]:
        """Let the query expert write the query (section 2.3), if there is one."""
        expert = self.query_transform
        if expert is None:
            return bundle
        refined: DialogueQueryBundle = yield Do(partial(expert.run, bundle), partial(expert.arun, bundle))
        return refined

    def retrieving(self, bundle: DialogueQueryBundle) -> Work[Found]:
        """Search the catalog, and take out what must not be recommended."""
        with self.turn():  # one version of a live catalog, whatever is swapped meanwhile
            return (yield from retrieving(self.retriever, bundle, exclude_mentioned=self.exclude_mentioned))

    def ranking(self, found: Found, bundle: DialogueQueryBundle) -> Work[Ranking]:
        """Let the item expert rank what was found (section 2.4), or keep the retriever's order."""
        expert, nodes = self.rerank, found.nodes[: self.rerank_top_k]
        if expert is None:
            ranking: Ranking = yield off_loop(ranking_of_retriever, nodes)
        else:
            ranking = yield Do(partial(expert.rank, nodes, bundle), partial(expert.arank, nodes, bundle))
        return ranking

    def recommending(self, bundle: DialogueQueryBundle) -> Work[Recommendation]:
        """Go from a dialogue to a recommendation: query, retrieval, ranking."""
        start = time.perf_counter()
        with self.turn():
            refined = yield from self.writing(bundle)
            return (yield from self._chosen(refined, time.perf_counter() - start))

    def _chosen(self, refined: DialogueQueryBundle, query_seconds: float) -> Work[Recommendation]:
        times = [time.perf_counter()]
        found = yield from self.retrieving(refined)
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
        words = self.response_synthesizer
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
        bundle = DialogueQueryBundle.from_dialogue(dialogue, exclude_ids=exclude_ids)
        return run(self.recommending(bundle))

    async def arecommend(
        self, dialogue: Dialogue | QueryBundle, *, exclude_ids: Iterable[str] = ()
    ) -> Recommendation:
        """Recommend without blocking the event loop; see `recommend`."""
        bundle = DialogueQueryBundle.from_dialogue(dialogue, exclude_ids=exclude_ids)
        return await arun(self.recommending(bundle))

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
        bundles = [
            DialogueQueryBundle.from_dialogue(dialogue, exclude_ids=ids)
            for dialogue, ids in zip(dialogues, barred, strict=True)
        ]
        start = time.perf_counter()
        with self.turn():
            if self.query_transform is not None:
                bundles = self.query_transform.run_batch(bundles)
            each = (time.perf_counter() - start) / max(1, len(dialogues))
            return [run(self._chosen(bundle, each)) for bundle in bundles]

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
        return run(self._asked(_as_query(str_or_query_bundle, exclude_ids)))

    async def aquery(
        self, str_or_query_bundle: QueryType | Dialogue, *, exclude_ids: Iterable[str] = ()
    ) -> RESPONSE_TYPE:
        """Answer without blocking the event loop; see `query`."""
        return await arun(self._asked(_as_query(str_or_query_bundle, exclude_ids)))

    def _asked(self, query: QueryType) -> Work[RESPONSE_TYPE]:
        # What BaseQueryEngine.query does, which would open a second span of the same name.
        dispatcher.event(QueryStartEvent(query=query))
        with self.callback_manager.as_trace("query"):
            bundle = QueryBundle(query) if isinstance(query, str) else query
            response: RESPONSE_TYPE = yield Do(partial(self._query, bundle), partial(self._aquery, bundle))
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
        return self.response_synthesizer.synthesize(query_bundle, nodes, additional_source_nodes)

    async def asynthesize(
        self,
        query_bundle: QueryBundle,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
    ) -> RESPONSE_TYPE:
        """Return the answer for nodes that are ranked already."""
        return await self.response_synthesizer.asynthesize(query_bundle, nodes, additional_source_nodes)

    def _querying(self, bundle: QueryBundle) -> Work[RESPONSE_TYPE]:
        payload: dict[str, Any] = {EventPayload.QUERY_STR: bundle.query_str}
        with self.callback_manager.event(CBEventType.QUERY, payload=payload) as event:
            found = yield from self.recommending(DialogueQueryBundle.from_dialogue(bundle))
            response = yield from self.answering(found)
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        return run(self._querying(query_bundle))

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        return await arun(self._querying(query_bundle))


def _as_query(query: QueryType | Dialogue, exclude_ids: Iterable[str]) -> QueryType:
    barred = unique_ids(exclude_ids)
    if isinstance(query, str | QueryBundle) and not barred:
        return query
    return DialogueQueryBundle.from_dialogue(query, exclude_ids=barred)
