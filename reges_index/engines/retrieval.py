"""The retrieval stage of an engine: where candidates come from, and which of them may be shown."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.indices.vector_store.retrievers import VectorIndexRetriever
from llama_index.core.schema import NodeWithScore
from llama_index.core.vector_stores import MetadataFilters
from llama_index.core.vector_stores.types import VectorStoreQueryMode

from reges_index.catalog import CatalogRetriever, ItemCatalog, LiveCatalog
from reges_index.dialogue import DialogueQueryBundle, TitleIndex, dialogue_of
from reges_index.driver import Work, off_loop
from reges_index.errors import ConfigError
from reges_index.fusion.retriever import FusionRetriever
from reges_index.item_expert.exclusion import without_excluded
from reges_index.item_expert.prior import marked_probabilities
from reges_index.query_expert.retriever import off_loop_retrieval
from reges_index.settings import GIVEN

if TYPE_CHECKING:
    from reges_index.fusion.model import FusionModel

__all__ = [
    "CatalogSource",
    "Found",
    "RetrieverSource",
    "reads_query",
    "retrieving",
    "turn_of",
    "with_filters",
]

RetrieverSource: TypeAlias = Callable[[int], BaseRetriever] | BaseRetriever
"""Makes a retriever for a number of items, or is one, whose own number then stays."""

# Retrieved on top of the number asked for when named items are left out; more is asked for where it must be.
_SPARE_FOR_MENTIONS = 20


class _Owner:
    """A key for weak references, which a plain object takes none of."""


class CatalogSource:
    """Makes retrievers over a catalog.

    Parameters
    ----------
    filters
        What every item retrieved obeys.
    fusion
        Retrieve with `FusionRetriever`; None is the paper's dense retrieval.
    name
        What settings call it: "vectors", "fusion" (the shipped one), a fusion's folder, or "given".
    """

    def __init__(
        self,
        catalog: ItemCatalog | LiveCatalog,
        filters: MetadataFilters | None = None,
        fusion: FusionModel | None = None,
        *,
        name: str = GIVEN,
    ) -> None:
        self.name = "vectors" if fusion is None else name
        self.catalog = catalog
        self.filters = filters
        self.fusion = fusion
        # One for all numbers of items and all filters: it prepares the catalog once, and they share that.
        self._fused: FusionRetriever | None = None
        self._owner = _Owner()  # by which a live catalog keeps its versions' retrievers; copies share it
        if fusion is not None:
            if not isinstance(catalog, LiveCatalog):
                self._fused = FusionRetriever(catalog, fusion)
            self._fusion_retriever()  # refuses a catalog of another encoder now, not in the first turn

    @property
    def current(self) -> ItemCatalog:
        """The catalog itself; of a live one the version that the turn reads."""
        return self.catalog.current if isinstance(self.catalog, LiveCatalog) else self.catalog

    def _fusion_retriever(self) -> FusionRetriever:
        if self._fused is not None:
            return self._fused
        assert isinstance(self.catalog, LiveCatalog)  # of all others it was made above
        return self.catalog.derived(self._owner, lambda version: FusionRetriever(version, self.fusion))

    def __call__(self, similarity_top_k: int) -> BaseRetriever:
        """Return a retriever of so many items; over the version of a live catalog that the turn reads."""
        if self.fusion is None:
            return self.catalog.as_retriever(similarity_top_k=similarity_top_k, filters=self.filters)
        retriever = self._fusion_retriever().for_top_k(similarity_top_k)
        retriever.filters = self.filters
        return retriever


def turn_of(source: RetrieverSource) -> AbstractContextManager[object]:
    """Return a block in which a live catalog stays what it is on entry; for other sources it does nothing."""
    if isinstance(source, CatalogSource) and isinstance(source.catalog, LiveCatalog):
        return source.catalog.pinned()
    return nullcontext()


def reads_query(source: RetrieverSource) -> bool:
    """Whether a written query decides on what a source gives; retrievers say otherwise by ``reads_query``."""
    if isinstance(source, CatalogSource):
        return source.fusion is None
    retriever = source if isinstance(source, BaseRetriever) else source(1)
    return bool(getattr(retriever, "reads_query", True))


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
        other = copy.copy(source)
        other.filters = filters
        return other
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
        Those that may be shown, best first. Where their scores are the retriever's probabilities, their
        metadata says so (``score_kind``).
    retrieved, excluded
        How many were retrieved, and how many of these were taken out.
    """

    nodes: list[NodeWithScore]
    retrieved: int
    excluded: int


def retrieving(
    source: RetrieverSource,
    bundle: DialogueQueryBundle,
    *,
    top_k: int,
    exclude_ids: Sequence[str],
    exclude_mentioned: bool,
) -> Work[Found]:
    """Retrieve until as many candidates as asked for may be shown, or the catalog ends.

    Parameters
    ----------
    top_k
        How many to show. A source that is a retriever shows its own number; where nothing is known of how to
        ask it for more, fewer may remain.
    exclude_ids, exclude_mentioned
        What to take out: these items, and what the dialogue names.
    """
    shown: int | None = top_k
    if isinstance(source, BaseRetriever):
        shown = source.similarity_top_k if _may_widen(source) else None
    spare = len(exclude_ids) + (_SPARE_FOR_MENTIONS if exclude_mentioned else 0)
    asked = (shown or 0) + spare
    while True:
        retriever = _of_size(source, asked if shown is not None and spare else shown)
        nodes: list[NodeWithScore] = yield off_loop_retrieval(retriever, bundle)
        allowed: list[NodeWithScore] = nodes
        if spare:
            allowed = yield off_loop(_allowed, retriever, nodes, bundle, exclude_ids, exclude_mentioned)
        if shown is None or len(allowed) >= shown or len(nodes) < asked:
            break
        asked *= 2
    left = allowed[:shown]
    if getattr(retriever, "scores_are_probabilities", False):
        left = marked_probabilities(left)
    return Found(left, len(nodes), len(nodes) - len(allowed))


def _allowed(
    retriever: BaseRetriever,
    nodes: list[NodeWithScore],
    bundle: DialogueQueryBundle,
    exclude_ids: Sequence[str],
    exclude_mentioned: bool,
) -> list[NodeWithScore]:
    return without_excluded(
        nodes,
        dialogue_of(bundle),
        ids=exclude_ids,
        mentioned=exclude_mentioned,
        titles=_titles_of(retriever) if exclude_mentioned else None,
    )


def _titles_of(retriever: BaseRetriever) -> TitleIndex | None:
    """Return the titles of the catalog that a retriever reads; None for stock retrievers."""
    catalog = getattr(retriever, "catalog", None)
    return catalog.titles() if isinstance(catalog, ItemCatalog | LiveCatalog) else None


def _of_size(source: RetrieverSource, size: int | None) -> BaseRetriever:
    if not isinstance(source, BaseRetriever):
        assert size is not None
        return source(size)
    if size is None or not _may_widen(source) or size == source.similarity_top_k:
        return source
    wider = copy.copy(source)  # the retriever is the user's own, and other turns may be using it
    wider.similarity_top_k = size
    return wider


def _may_widen(
    retriever: BaseRetriever,
) -> TypeGuard[CatalogRetriever | FusionRetriever | VectorIndexRetriever]:
    """Say whether ``similarity_top_k`` alone decides how many items a retriever gives."""
    if isinstance(retriever, VectorIndexRetriever):  # the other modes have numbers of their own
        return retriever._vector_store_query_mode == VectorStoreQueryMode.DEFAULT
    return isinstance(retriever, CatalogRetriever | FusionRetriever)
