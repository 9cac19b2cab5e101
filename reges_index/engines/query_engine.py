"""`ReGeSQueryEngine`: one dialogue in, one catalog item out (section 2.1, figure 2, right side)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from reges_index.dialogue.wording import MOVIES, Domain
from reges_index.engines.arguments import as_bundle, told_apart, unique_ids
from reges_index.engines.assembly import engine_parts
from reges_index.engines.recommendation import Recommendation
from reges_index.engines.recommender import Recommender
from reges_index.engines.retrieval import RetrieverSource
from reges_index.fusion.model import FusionModel
from reges_index.item_expert.rerank import Ranking, ReGeSRerank
from reges_index.item_expert.synthesizer import ReGeSSynthesizer
from reges_index.models.local_lm import LocalLM
from reges_index.query_expert.transform import ReGeSQueryTransform

__all__ = ["ReGeSQueryEngine", "as_bundle", "unique_ids"]


class ReGeSQueryEngine(Recommender, BaseQueryEngine):
    """The whole of ReGeS as a LlamaIndex query engine.

    ``query`` takes a `DialogueQueryBundle` (``DialogueQueryBundle.from_dialogue(messages)``) or a string,
    which counts as one message of the user. `recommend` takes any form of a dialogue and returns the full
    result instead of a response.

    Parameters
    ----------
    retrieve
        Makes a retriever for a number of items: ``lambda k: catalog.as_retriever(similarity_top_k=k)``; or
        a retriever, whose own top-k then stays (what must not be recommended is retrieved on top of it, where
        it is a `VectorIndexRetriever` or this package's).
    query_transform, rerank, response_synthesizer
        The two experts and the answer.
    similarity_top_k
        Items to retrieve (k of the paper, 50 there). A retriever that was given keeps its own number.
    rerank_top_k
        How many of them the item expert sees; None shows it all.
    exclude_mentioned
        Never recommend what the dialogue names.
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
        Recommender.__init__(
            self,
            retrieve,
            query_transform,
            rerank,
            similarity_top_k=similarity_top_k,
            rerank_top_k=rerank_top_k,
            exclude_mentioned=exclude_mentioned,
            choice=choice,
            rank_alone=rank_alone,
        )
        BaseQueryEngine.__init__(self, callback_manager=callback_manager)
        self._synthesizer = response_synthesizer or ReGeSSynthesizer()
        self._rerank.callback_manager = self.callback_manager
        self._synthesizer.callback_manager = self.callback_manager

    @classmethod
    def from_defaults(
        cls,
        catalog: ItemCatalog | LiveCatalog | BaseRetriever | None = None,
        *,
        retriever: BaseRetriever | None = None,
        llm: LLM | LocalLM | None = None,
        query_llm: LLM | LocalLM | None = None,
        similarity_top_k: int = 50,
        rerank_top_k: int | None = None,
        fusion: FusionModel | Literal["auto"] | None = "auto",
        filters: MetadataFilters | None = None,
        exclude_mentioned: bool = False,
        hide_ruled_out: bool = False,
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
            Exactly one of them. A retriever may also come first, as in ``RetrieverQueryEngine.from_args``.
        llm
            For both experts, each with its own adapter where the model holds it; None takes the embedded
            default.
        query_llm
            Another model for the query expert.
        fusion
            Beyond the paper: retrieve with `FusionRetriever` and let `FusionModel.choose` have the last word,
            without LLM_G where that has no weight in it; with a catalog only. "auto" takes the shipped one
            where all is embedded: a catalog by the embedded encoder, and neither an LLM, a part nor an option
            of the ranking of your own, but for ``top_n``. None is the paper's pipeline.
        filters
            LlamaIndex metadata filters that every recommendation obeys; with a catalog only.
        exclude_mentioned
            Never recommend what the dialogue names.
        hide_ruled_out
            Take what the user turned down, and genres that were ruled out, off the ranking; by the fusion, so
            only where there is one. See `FusionRetriever`.
        on_error
            When the server behind an LLM gives no answer, after all retries: "raise" an `LLMServerError`, or
            "retrieval_order" to recommend all the same: search with the seeker's last message, keep the
            retriever's order, answer with the title, and say so in the report. A ``query_transform`` or
            ``response_synthesizer`` that is given keeps its own.
        rerank_kwargs
            Passed to `ReGeSRerank` (``mode``, ``max_input_tokens``, ...). ``top_n`` is how many nodes a
            response has: all by default. `recommend` has all in any case.

        Raises
        ------
        ConfigError
            If neither or both of catalog and retriever are given, or options of a part that is given too, or
            options that there are not, or hide_ruled_out without a fusion.
        """
        catalog, retriever = told_apart(catalog, retriever)
        parts = engine_parts(
            catalog,
            retriever=retriever,
            llm=llm,
            query_llm=query_llm,
            similarity_top_k=similarity_top_k,
            rerank_top_k=rerank_top_k,
            fusion=fusion,
            filters=filters,
            hide_ruled_out=hide_ruled_out,
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

    @property
    def response_synthesizer(self) -> ReGeSSynthesizer:
        """What words the answer."""
        return self._synthesizer

    def _get_prompt_modules(self) -> PromptMixinType:
        return {
            "query_transform": self._query_transform,
            "rerank": self._rerank,
            "response_synthesizer": self._synthesizer,
        }

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


def _with_timings(response: RESPONSE_TYPE, found: Recommendation) -> RESPONSE_TYPE:
    response.metadata = {**(response.metadata or {}), "timings": found.timings}
    return response
