"""The retrieval stage of an engine: where candidates come from, and which of them may be shown."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias, TypeGuard

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.indices.vector_store.retrievers import VectorIndexRetriever
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from pydantic import Field

from reges_index.catalog import CatalogRetriever, ItemCatalog, LiveCatalog
from reges_index.catalog.item import Item, marked_probabilities
from reges_index.dialogue import DialogueQueryBundle, TitleIndex, dialogue_of
from reges_index.dialogue.refusals import is_refused, refused_kinds
from reges_index.dialogue.render import unique_ids
from reges_index.driver import Work, off_loop, off_loop_retrieval
from reges_index.fusion.retriever import FusionRetriever

OwnRetriever: TypeAlias = CatalogRetriever | FusionRetriever
"""Retrievers over a catalog, whose number of items and filters an engine may change."""

# Retrieved on top of the number asked for when named items are left out; more is asked for where it must be.
_SPARE_FOR_MENTIONS = 20


def is_own(retriever: BaseRetriever) -> TypeGuard[OwnRetriever]:
    """Say whether a retriever is one of this package over a catalog."""
    return isinstance(retriever, CatalogRetriever | FusionRetriever)


def catalog_of(retriever: BaseRetriever) -> ItemCatalog | LiveCatalog | None:
    """Return the catalog behind a retriever of this package; None for others."""
    catalog = retriever.catalog if is_own(retriever) else None
    return catalog if isinstance(catalog, ItemCatalog | LiveCatalog) else None


def turn_of(retriever: BaseRetriever) -> AbstractContextManager[object]:
    """Return a block in which a live catalog stays what it is on entry; for other sources it does nothing."""
    catalog = catalog_of(retriever)
    return nullcontext() if catalog is None else catalog.pinned()


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
    retriever: BaseRetriever,
    bundle: DialogueQueryBundle,
    *,
    exclude_mentioned: bool,
) -> Work[Found]:
    """Retrieve until as many candidates as the retriever gives may be shown, or the catalog ends.

    Where nothing is known of how to ask it for more, fewer may remain.

    Parameters
    ----------
    bundle
        Its ``exclude_ids`` are taken out.
    exclude_mentioned
        Take out what the dialogue names, too.
    """
    exclude_ids = unique_ids(bundle.exclude_ids)
    shown = retriever.similarity_top_k if _may_widen(retriever) else None
    spare = len(exclude_ids) + (_SPARE_FOR_MENTIONS if exclude_mentioned else 0)
    titles = retriever.titles if is_own(retriever) and exclude_mentioned else None
    asked = (shown or 0) + spare
    while True:
        wide = retriever
        if _may_widen(retriever) and spare:
            wide = copy.copy(retriever)  # other turns may be using it
            wide.similarity_top_k = asked
        nodes: list[NodeWithScore] = yield off_loop_retrieval(wide, bundle)
        allowed: list[NodeWithScore] = nodes
        if spare:
            dialogue = dialogue_of(bundle)
            allowed = yield off_loop(_allowed, nodes, dialogue, exclude_ids, exclude_mentioned, titles)
        if shown is None or len(allowed) >= shown or len(nodes) < asked:
            break
        asked *= 2
    left = allowed[:shown]
    if getattr(retriever, "scores_are_probabilities", False):
        left = marked_probabilities(left)
    return Found(left, len(nodes), len(nodes) - len(allowed))


def _may_widen(retriever: BaseRetriever) -> TypeGuard[OwnRetriever | VectorIndexRetriever]:
    """Say whether ``similarity_top_k`` alone decides how many items a retriever gives."""
    if isinstance(retriever, VectorIndexRetriever):  # the other modes have numbers of their own
        return retriever._vector_store_query_mode == VectorStoreQueryMode.DEFAULT
    return is_own(retriever)


def _allowed(
    nodes: Sequence[NodeWithScore],
    dialogue: Sequence[ChatMessage],
    ids: Iterable[str],
    mentioned: bool,
    titles: Callable[[], TitleIndex] | None = None,
) -> list[NodeWithScore]:
    """Return the nodes that may be recommended, in their order.

    Those of a kind that the seeker turns down in plain words ("no horror") go with what is ``mentioned``, if
    others are left.
    ``titles`` are those of the catalog behind the nodes, so that an item which is named and was not retrieved
    is not taken for one that was. Without them, only the titles of the nodes are known.
    """
    barred = set(ids)
    items = [Item.from_node(node.node) for node in nodes]
    if mentioned:
        index = titles() if titles is not None else None
        known = frozenset(index.ids) if index is not None else frozenset()
        strangers = [item for item in items if item.id not in known]
        for names in (index, TitleIndex.of(strangers) if strangers else None):
            barred |= names.named_ids(dialogue) if names is not None else set()
        kinds = refused_kinds(dialogue)
        refused = {item.id for item in items if is_refused(item, kinds)}
        if len(refused) < len(items):
            barred |= refused
    return [
        node for node, item in zip(nodes, items, strict=True) if not {item.id, node.node.node_id} & barred
    ]


class ExcludeItems(BaseNodePostprocessor):
    """Drop known items from the candidates; goes before `ReGeSRerank` in a list of postprocessors.

    Parameters
    ----------
    item_ids
        Ids that must not be recommended.
    mentioned
        Also drop what the dialogue in the query bundle names: the seeker knows it, or has turned it down.
    """

    item_ids: list[str] = Field(default_factory=list, description="Ids that must not be recommended.")
    mentioned: bool = Field(default=True, description="Whether to drop items that the dialogue names.")

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the component."""
        return "ExcludeItems"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        dialogue = dialogue_of(query_bundle) if query_bundle is not None else ()
        barred = query_bundle.exclude_ids if isinstance(query_bundle, DialogueQueryBundle) else ()
        return _allowed(nodes, dialogue, (*self.item_ids, *barred), self.mentioned)
