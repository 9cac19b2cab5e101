"""`FusionRetriever`: many candidate sources, weighed by what was learnt, as one LlamaIndex retriever."""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import MetadataFilters

from reges_index.catalog import Item, ItemCatalog
from reges_index.catalog.encoder import embed_queries
from reges_index.dialogue import dialogue_of
from reges_index.errors import EncoderMismatchError, InputError
from reges_index.fusion.features import (
    CatalogSources,
    QueryVectors,
    SourceSwitch,
    check_sources,
    columns_of,
    dialogue_texts,
)
from reges_index.fusion.model import FusionModel
from reges_index.item_expert.prior import marked_probabilities

__all__ = ["FusionRetriever"]

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.floating[Any]]

# A look at the catalog is followed by this many times its own length without one.
_LOOKS = 20


@dataclass(frozen=True)
class _Prepared:
    fingerprint: str
    sources: CatalogSources


class _Shared:
    """What retrievers of one catalog and model share: the prepared sources and the lock to make them."""

    def __init__(self) -> None:
        self.prepared: _Prepared | None = None
        self.looked = 0.0  # by time.monotonic(), when the catalog was last compared
        self.look_took = 0.0  # seconds
        self.changes = 0  # of the catalog, when it was last compared
        self.lock = threading.Lock()


class FusionRetriever(BaseRetriever):
    """Scores every item of a catalog by all sources and returns the best.

    Reads the dialogue from a `DialogueQueryBundle`; no query has to be written for it. A plain bundle counts
    as one message of the user. Built on first use, and again when the catalog's content has changed. May be
    shared between threads; async calls run in a thread.

    Parameters
    ----------
    catalog
        Where to look; any domain. Items that the model does not know are judged by their text alone.
    model
        None is `FusionModel.default`.
    similarity_top_k
        How many items; more than there are returns all.
    filters
        Restrictions on metadata, as for `CatalogRetriever`.
    without
        Sources to switch off; see `reges_index.fusion.SOURCES`. For ablations, and where a source
        is not wanted.
    check_every
        Seconds between two looks whether another process has changed the catalog. A look reads a hash of
        every item (1,100 items: 55 ms, 6,300: over a second), so large catalogs are looked at less often, for
        a twentieth of the time at most; what has been removed is found out before it is returned all the
        same, and changes through the catalog object itself are seen at once. 0 looks on every query.

    Notes
    -----
    A node's score is the item's probability among all items that pass the filters.

    Raises
    ------
    InputError
        If `similarity_top_k` is below 1 or a source's name is unknown.
    EncoderMismatchError
        If the catalog's vectors are not by the encoder that the model was trained with.
    """

    scores_are_probabilities = True
    """What the item expert's word is combined with; see `reges_index.item_expert.prior`."""
    reads_query: ClassVar[bool] = False
    """It searches with the dialogue: a written query would change nothing."""

    def __init__(
        self,
        catalog: ItemCatalog,
        model: FusionModel | None = None,
        similarity_top_k: int = 50,
        filters: MetadataFilters | None = None,
        *,
        without: SourceSwitch = (),
        check_every: float = 1.0,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        if similarity_top_k < 1:
            raise InputError(f"similarity_top_k is {similarity_top_k}", hint="ask for at least one item")
        self.catalog = catalog
        self.model = FusionModel.default() if model is None else model
        self.similarity_top_k = similarity_top_k
        self.filters = filters
        self.without = check_sources(without)
        self.check_every = check_every
        _check_encoder(catalog, self.model)
        self._shared = _Shared()
        super().__init__(callback_manager=callback_manager)

    def for_top_k(self, similarity_top_k: int) -> FusionRetriever:
        """Return a retriever for another number of items that shares all that was prepared with this one.

        Raises
        ------
        InputError
            If `similarity_top_k` is below 1.
        """
        if similarity_top_k < 1:
            raise InputError(f"similarity_top_k is {similarity_top_k}", hint="ask for at least one item")
        other = copy.copy(self)
        other.similarity_top_k = similarity_top_k
        return other

    def _ready(self) -> _Prepared:
        shared = self._shared
        prepared = shared.prepared
        changes = self.catalog.changes
        wait = max(self.check_every, _LOOKS * shared.look_took) if self.check_every else 0.0
        if prepared is not None and shared.changes == changes and time.monotonic() - shared.looked < wait:
            return prepared
        began = time.monotonic()
        mark = self.catalog.fingerprint()
        shared.look_took = time.monotonic() - began
        if prepared is None or prepared.fingerprint != mark:
            with shared.lock:
                prepared = shared.prepared
                if prepared is None or prepared.fingerprint != mark:
                    prepared = shared.prepared = self._prepare()
        # Only now: while this thread builds, and where it fails, others must not take the old state for new.
        shared.looked, shared.changes = began, changes
        return prepared

    def _prepare(self) -> _Prepared:
        mark = (
            self.catalog.fingerprint()
        )  # before the rows: a change in between is then seen by the next look
        items, vectors = self.catalog.contents()
        lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
        return _Prepared(
            mark, CatalogSources(items, vectors / lengths, self.model.statistics, self.model.neighbours)
        )

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        nodes = self._ranked(query_bundle, self._ready())
        stale = time.monotonic() - self._shared.looked > self.check_every
        if stale and len(self.catalog.held([node.node.node_id for node in nodes])) < len(nodes):
            self._shared.looked = -math.inf
            nodes = self._ranked(query_bundle, self._ready())
        return nodes

    def _ranked(self, query_bundle: QueryBundle, prepared: _Prepared) -> list[NodeWithScore]:
        items = prepared.sources.items
        if not items:
            return []
        places = self._places(items)
        if not len(places):
            return []
        # In double precision, so that the probabilities sum to 1.
        scores = self._scores(query_bundle, prepared.sources)[places].astype(np.float64)
        chances = np.exp(scores - np.logaddexp.reduce(scores))
        best = np.argsort(-scores, kind="stable")[: self.similarity_top_k]
        template = self.catalog.template
        nodes = [
            NodeWithScore(node=items[places[n]].to_node(template), score=float(chances[n])) for n in best
        ]
        # So that an item expert in LlamaIndex's own engines takes them for a prior, too.
        return marked_probabilities(nodes)

    def _places(self, items: Sequence[Item]) -> npt.NDArray[np.int64]:
        """Return the positions of the items that pass the filters."""
        if self.filters is None or not self.filters.filters:
            return np.arange(len(items))
        allowed = frozenset(self.catalog.ids(self.filters))
        return np.array([n for n, item in enumerate(items) if item.id in allowed], dtype=np.int64)

    def _scores(self, bundle: QueryBundle, sources: CatalogSources) -> Floats:
        """Return each item's log-odds up to a constant, shape (N,)."""
        messages = dialogue_of(bundle)
        matrix = sources.features(messages, self._embed(messages))
        matrix[:, columns_of(self.without)] = 0
        scores: Floats = matrix @ self.model.weights
        return scores

    def _embed(self, messages: Sequence[ChatMessage]) -> QueryVectors:
        whole, last = dialogue_texts(messages)
        if not whole:
            raise InputError("the query is empty", hint="pass a dialogue with text")
        # Both are one and the same text where only one message was said.
        texts = list(dict.fromkeys((whole, last)))
        found = np.array(embed_queries(self.catalog.embed_model, texts), dtype=np.float32)
        return QueryVectors(found[0], found[-1])

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)


def _check_encoder(catalog: ItemCatalog, model: FusionModel) -> None:
    if not model.fits(catalog):
        trained = model.manifest.get("encoder", {})
        name, dimension = trained.get("name"), trained.get("dimension")
        raise EncoderMismatchError(
            f"the fusion model was trained with encoder {name!r} of dimension {dimension}, catalog "
            f"{catalog.name!r} has {catalog.encoder.name!r} of dimension {catalog.encoder.dimension}",
            hint="index the items again with encoder reges, or train a model for yours with "
            "`reges finetune fusion`",
        )
