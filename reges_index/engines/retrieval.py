"""The retrieval stage of an engine: where candidates come from, and which of them may be shown."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias, TypeGuard

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.indices.vector_store.retrievers import VectorIndexRetriever
from llama_index.core.schema import NodeWithScore
from llama_index.core.vector_stores import MetadataFilters
from llama_index.core.vector_stores.types import VectorStoreQueryMode

from reges_index.catalog import CatalogRetriever, ItemCatalog, LiveCatalog
from reges_index.dialogue import DialogueQueryBundle, TitleIndex, dialogue_of
from reges_index.errors import ConfigError
from reges_index.fusion.model import FusionModel
from reges_index.fusion.retriever import FusionRetriever
from reges_index.item_expert.exclusion import without_excluded
from reges_index.query_expert.off_loop import retrieve_off_loop

__all__ = [
    "CatalogSource",
    "Found",
    "RetrieverSource",
    "aretrieve",
    "filters_of",
    "retrieve",
    "turn_of",
    "with_filters",
]

RetrieverSource: TypeAlias = Callable[[int], BaseRetriever] | BaseRetriever
"""Makes a retriever for a number of items, or is one, whose own number then stays."""

# Retrieved on top of the number asked for when named items are left out, so that k candidates remain.
_SPARE_FOR_MENTIONS = 20


class CatalogSource:
    """Makes retrievers over a catalog.

    Parameters
    ----------
    filters
        What every item retrieved obeys.
    fusion
        Retrieve with `FusionRetriever`; None is the paper's dense retrieval.
    hide_ruled_out
        As of `FusionRetriever`.

    Raises
    ------
    ConfigError
        If something shall be hidden and there is no fusion, which alone knows what was ruled out.
    """

    def __init__(
        self,
        catalog: ItemCatalog | LiveCatalog,
        filters: MetadataFilters | None = None,
        fusion: FusionModel | None = None,
        *,
        hide_ruled_out: bool = False,
    ) -> None:
        if hide_ruled_out and fusion is None:
            raise ConfigError(
                "hide_ruled_out=True needs a fusion, and there is none",
                hint="pass fusion=FusionModel.default(), or leave hide_ruled_out out",
            )
        self.catalog = catalog
        self.filters = filters
        self.fusion = fusion
        self.hide_ruled_out = hide_ruled_out
        # One for all numbers of items and all filters: it prepares the catalog once, and they share that.
        self._fused = None if fusion is None else _Fused(catalog, fusion, hide_ruled_out)

    @property
    def current(self) -> ItemCatalog:
        """The catalog itself; of a live one the version that the turn reads."""
        return self.catalog.current if isinstance(self.catalog, LiveCatalog) else self.catalog

    def __call__(self, similarity_top_k: int) -> BaseRetriever:
        """Return a retriever of so many items; over the version of a live catalog that the turn reads."""
        if self._fused is None:
            return self.catalog.as_retriever(similarity_top_k=similarity_top_k, filters=self.filters)
        retriever = self._fused.retriever().for_top_k(similarity_top_k)
        retriever.filters = self.filters
        return retriever

    def with_filters(self, filters: MetadataFilters | None) -> CatalogSource:
        """Return a source like this one with other filters; what the fusion has prepared is shared."""
        other = copy.copy(self)
        other.filters = filters
        return other


class _Fused:
    """The fusion's retriever of a catalog; of a live one, a retriever for each version."""

    def __init__(self, catalog: ItemCatalog | LiveCatalog, fusion: FusionModel, hide_ruled_out: bool) -> None:
        self._catalog = catalog
        self._fusion = fusion
        self._hide_ruled_out = hide_ruled_out
        self._only = None if isinstance(catalog, LiveCatalog) else self._over(catalog)
        self.retriever()  # refuses a catalog of another encoder now, not in the first turn

    def retriever(self) -> FusionRetriever:
        if isinstance(self._catalog, LiveCatalog):
            return self._catalog.derived(self, self._over)
        assert self._only is not None  # made above for every catalog that is not live
        return self._only

    def _over(self, catalog: ItemCatalog) -> FusionRetriever:
        return FusionRetriever(catalog, self._fusion, hide_ruled_out=self._hide_ruled_out)


def turn_of(source: RetrieverSource) -> AbstractContextManager[object]:
    """Return a block in which a live catalog stays what it is on entry; for other sources it does nothing."""
    if isinstance(source, CatalogSource) and isinstance(source.catalog, LiveCatalog):
        return source.catalog.pinned()
    return nullcontext()


def filters_of(source: RetrieverSource) -> MetadataFilters | None:
    """Return what every item of a source obeys; None for nothing, or what only a stock retriever knows."""
    if isinstance(source, CatalogSource):
        return source.filters
    retriever = source if isinstance(source, BaseRetriever) else source(1)
    return retriever.filters if isinstance(retriever, CatalogRetriever | FusionRetriever) else None


def with_filters(source: RetrieverSource, filters: MetadataFilters | None) -> RetrieverSource:
    """Return a source whose items obey other filters; the one given stays as it is.

    Raises
    ------
    ConfigError
        If it does not retrieve from a catalog: the filters are then its retriever's.
    """
    if isinstance(source, CatalogSource):
        return source.with_filters(filters)
    if isinstance(source, BaseRetriever) or not isinstance(source(1), CatalogRetriever | FusionRetriever):
        raise ConfigError(
            "this engine was built from a retriever, whose filters are its own",
            hint="set them there, or build the engine from a catalog",
        )
    make = source

    def filtered(top_k: int) -> BaseRetriever:
        retriever = copy.copy(make(top_k))  # a copy, because `make` may return the same one each time
        assert isinstance(retriever, CatalogRetriever | FusionRetriever)
        retriever.filters = filters
        return retriever

    return filtered


@dataclass(frozen=True)
class Found:
    """What retrieval gave.

    Attributes
    ----------
    nodes
        Those that may be shown, best first.
    retrieved, excluded
        How many were retrieved, and how many of these were taken out.
    """

    nodes: list[NodeWithScore]
    retrieved: int
    excluded: int


def retrieve(
    source: RetrieverSource,
    bundle: DialogueQueryBundle,
    *,
    top_k: int,
    exclude_ids: Sequence[str],
    exclude_mentioned: bool,
) -> Found:
    """Retrieve candidates, with as many to spare as may be taken out.

    Parameters
    ----------
    top_k
        How many to show. A source that is a retriever shows its own number.
    exclude_ids, exclude_mentioned
        What to take out: these items, and what the dialogue names.
    """
    retriever, shown = _retriever(source, top_k, exclude_ids, exclude_mentioned)
    nodes = retriever.retrieve(bundle)
    allowed = without_excluded(
        nodes,
        dialogue_of(bundle),
        ids=exclude_ids,
        mentioned=exclude_mentioned,
        titles=_titles_of(retriever) if exclude_mentioned else None,
    )
    return Found(allowed[:shown], len(nodes), len(nodes) - len(allowed))


async def aretrieve(
    source: RetrieverSource,
    bundle: DialogueQueryBundle,
    *,
    top_k: int,
    exclude_ids: Sequence[str],
    exclude_mentioned: bool,
) -> Found:
    """Do `retrieve` without blocking the event loop."""
    retriever, shown = _retriever(source, top_k, exclude_ids, exclude_mentioned)
    nodes = await retrieve_off_loop(retriever, bundle)
    titles = await asyncio.to_thread(_titles_of, retriever) if exclude_mentioned else None
    allowed = await asyncio.to_thread(
        without_excluded,
        nodes,
        dialogue_of(bundle),
        ids=exclude_ids,
        mentioned=exclude_mentioned,
        titles=titles,
    )
    return Found(allowed[:shown], len(nodes), len(nodes) - len(allowed))


def _titles_of(retriever: BaseRetriever) -> TitleIndex | None:
    """Return the titles of the catalog that a retriever reads; None for stock retrievers."""
    catalog = getattr(retriever, "catalog", None)
    return catalog.titles() if isinstance(catalog, ItemCatalog | LiveCatalog) else None


def _retriever(
    source: RetrieverSource, top_k: int, exclude_ids: Sequence[str], exclude_mentioned: bool
) -> tuple[BaseRetriever, int | None]:
    """Return a retriever with items to spare, and how many of the allowed ones to show; None is all."""
    spare = len(exclude_ids) + (_SPARE_FOR_MENTIONS if exclude_mentioned else 0)
    if not isinstance(source, BaseRetriever):
        return source(top_k + spare), top_k
    if not spare or not _may_widen(source):
        return source, None
    wider = copy.copy(source)  # the retriever is the user's own, and other turns may be using it
    shown: int = wider.similarity_top_k
    wider.similarity_top_k = shown + spare
    return wider, shown


def _may_widen(
    retriever: BaseRetriever,
) -> TypeGuard[CatalogRetriever | FusionRetriever | VectorIndexRetriever]:
    """Say whether ``similarity_top_k`` alone decides how many items a retriever gives."""
    if isinstance(retriever, VectorIndexRetriever):  # the other modes have numbers of their own
        return retriever._vector_store_query_mode == VectorStoreQueryMode.DEFAULT
    return isinstance(retriever, CatalogRetriever | FusionRetriever)
