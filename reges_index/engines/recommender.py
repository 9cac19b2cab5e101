"""`Recommender`: query, retrieval and ranking, one after the other (section 2.1, figure 2, right side)."""

from __future__ import annotations

import asyncio
import copy
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Self

from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores import MetadataFilters

from reges_index.catalog import ItemCatalog
from reges_index.dialogue import Dialogue, DialogueQueryBundle
from reges_index.dialogue.wording import Domain
from reges_index.engines.arguments import as_bundle, unique_ids
from reges_index.engines.recommendation import Recommendation
from reges_index.engines.retrieval import (
    CatalogSource,
    Found,
    RetrieverSource,
    aretrieve,
    filters_of,
    retrieve,
    turn_of,
    with_filters,
)
from reges_index.errors import ConfigError, InputError
from reges_index.item_expert.rerank import Ranking, ReGeSRerank
from reges_index.query_expert.transform import ReGeSQueryTransform

__all__ = ["Recommender"]


class Recommender:
    """The stages between a dialogue and a `Recommendation`: one by one, for one dialogue or many.

    `ReGeSQueryEngine` is one that LlamaIndex can ask; parameters are described there.
    """

    def __init__(
        self,
        retrieve: RetrieverSource,
        query_transform: ReGeSQueryTransform,
        rerank: ReGeSRerank,
        *,
        similarity_top_k: int,
        rerank_top_k: int | None,
        exclude_mentioned: bool,
        choice: Callable[[Ranking], Ranking] | None,
        rank_alone: Callable[[Sequence[NodeWithScore]], Ranking] | None,
    ) -> None:
        if similarity_top_k < 1:
            raise ConfigError(f"similarity_top_k={similarity_top_k} retrieves nothing", hint="use 1 or more")
        if rerank_top_k is not None and rerank_top_k < 1:
            raise ConfigError(f"rerank_top_k={rerank_top_k} ranks nothing", hint="use 1 or more, or None")
        self._retrieve_with = retrieve
        self._query_transform = query_transform
        self._rerank = rerank
        self.similarity_top_k = similarity_top_k
        self.rerank_top_k = rerank_top_k
        self.exclude_mentioned = exclude_mentioned
        self._choice = choice
        self._rank_alone = rank_alone

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

    @property
    def query_transform(self) -> ReGeSQueryTransform:
        """The query expert."""
        return self._query_transform

    @property
    def rerank(self) -> ReGeSRerank:
        """The item expert."""
        return self._rerank

    @property
    def retrieve_with(self) -> RetrieverSource:
        """Where candidates come from, as it was given or as `from_defaults` made it."""
        return self._retrieve_with

    @property
    def filters(self) -> MetadataFilters | None:
        """What every recommendation obeys; None where that is nothing, or known to a stock retriever only."""
        return filters_of(self._retrieve_with)

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
            top_n=self._rerank.top_n,
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
