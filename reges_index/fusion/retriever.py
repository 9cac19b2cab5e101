"""`FusionRetriever`: many candidate sources, weighed by what was learnt, as one LlamaIndex retriever."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import MetadataFilters

from reges_index.catalog import Item, ItemCatalog, LiveCatalog
from reges_index.catalog.item import marked_probabilities
from reges_index.dialogue import TitleIndex, dialogue_of
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

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.floating[Any]]

# A look at the catalog is followed by this many times its own length without one.
_LOOKS = 20


class _Prepared:
    """What retrievers of one catalog and model share: the sources, made when they are first needed."""

    def __init__(self, catalog: ItemCatalog) -> None:
        self.catalog = catalog
        self.sources: CatalogSources | None = None
        self.fingerprint = ""
        self.changes = 0  # of the catalog, when it was last compared
        self.looked = 0.0  # by time.monotonic(), when that was
        self.look_took = 0.0  # seconds
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
        catalog: ItemCatalog | LiveCatalog,
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
        # A live catalog keeps one for each of its versions, by this one; copies of the retriever share it.
        self._shared = _Prepared(catalog.current)
        super().__init__(callback_manager=callback_manager)

    def titles(self) -> TitleIndex:
        """Return the index of the catalog's titles, as it was when it was last looked at."""
        prepared = self._prepared()
        return (prepared.sources or self._sources(prepared)).titles

    def _prepared(self) -> _Prepared:
        if isinstance(self.catalog, LiveCatalog):
            return self.catalog.derived(self._shared, _Prepared)
        return self._shared

    def _sources(self, prepared: _Prepared) -> CatalogSources:
        """Return the sources of the catalog as it is, made anew if it has changed."""
        catalog, sources = prepared.catalog, prepared.sources
        changes = catalog.changes
        wait = max(self.check_every, _LOOKS * prepared.look_took) if self.check_every else 0.0
        if sources and prepared.changes == changes and time.monotonic() - prepared.looked < wait:
            return sources
        began = time.monotonic()
        mark = catalog.fingerprint()  # before the rows: the next look sees a change in between
        prepared.look_took = time.monotonic() - began
        with prepared.lock:
            if prepared.sources is None or prepared.fingerprint != mark:
                prepared.sources, prepared.fingerprint = self._prepare(catalog), mark
            # Only now: while this thread builds, and where it fails, others must not take old for new.
            prepared.looked, prepared.changes = began, changes
            return prepared.sources

    def _prepare(self, catalog: ItemCatalog) -> CatalogSources:
        items, vectors = catalog.contents()
        lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
        learnt = self.model
        return CatalogSources(items, vectors / lengths, learnt.statistics, learnt.neighbours, learnt.topic)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        with self.catalog.pinned() as catalog:
            prepared = self._prepared()
            nodes = self._ranked(query_bundle, self._sources(prepared))
            stale = time.monotonic() - prepared.looked > self.check_every
            if stale and len(catalog.held([node.node.node_id for node in nodes])) < len(nodes):
                prepared.looked = -math.inf
                nodes = self._ranked(query_bundle, self._sources(prepared))
            return nodes

    def _ranked(self, query_bundle: QueryBundle, sources: CatalogSources) -> list[NodeWithScore]:
        items = sources.items
        places = self._places(items)
        if not len(places):
            return []
        # In double precision, so that the probabilities sum to 1.
        scores = self._scores(query_bundle, sources)[places].astype(np.float64)
        chances = np.exp(scores - np.logaddexp.reduce(scores))
        best = np.argsort(-scores, kind="stable")[: self.similarity_top_k]
        nodes = [
            NodeWithScore(node=items[places[n]].to_node(self.catalog.template), score=float(chances[n]))
            for n in best
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
        embed = self.catalog.embed_model.get_query_embedding
        dialogue = np.array(embed(whole), dtype=np.float32)
        # Where only one message was said, both are one and the same text.
        return QueryVectors(dialogue, dialogue if last == whole else np.array(embed(last), dtype=np.float32))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)


def _check_encoder(catalog: ItemCatalog | LiveCatalog, model: FusionModel) -> None:
    if not model.fits(catalog):
        trained = model.manifest.get("encoder", {})
        name, dimension = trained.get("name"), trained.get("dimension")
        raise EncoderMismatchError(
            f"the fusion model was trained with encoder {name!r} of dimension {dimension}, catalog "
            f"{catalog.name!r} has {catalog.encoder.name!r} of dimension {catalog.encoder.dimension}",
            hint="index the items again with encoder reges, or train a model for yours with "
            "`reges finetune fusion`",
        )
