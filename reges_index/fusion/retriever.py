"""`FusionRetriever`: many candidate sources, weighed by what was learnt, as one LlamaIndex retriever."""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import threading
import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import MetadataFilters

from reges_index.catalog import ItemCatalog
from reges_index.catalog.encoder import embed_queries
from reges_index.dialogue import dialogue_of
from reges_index.errors import EncoderMismatchError, InputError
from reges_index.fusion.features import CatalogSources, QueryVectors, dialogue_texts
from reges_index.fusion.model import FusionModel
from reges_index.fusion.scoring import SourceSwitch, check_sources, item_biases, log_softmax, score_items
from reges_index.fusion.snapshot import Snapshot, allowed_ids
from reges_index.fusion.tower import QueryTower

__all__ = ["FusionRetriever"]

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

# A look at the catalog is followed by this many times its own length without one.
_LOOKS = 20


@dataclass(frozen=True)
class _Prepared:
    fingerprint: str
    sources: CatalogSources
    biases: Floats


class _Workshop:
    """What retrievers of one catalog and model share: the prepared sources and the lock to make them."""

    def __init__(self) -> None:
        self.prepared: _Prepared | None = None
        self.looked = 0.0  # by time.monotonic(), when the catalog was last compared
        self.look_took = 0.0  # seconds
        self.changes = 0  # of the catalog, when it was last compared
        self.lock = threading.Lock()


class FusionRetriever(BaseRetriever):
    """Scores every item of a catalog by all sources and returns the best.

    Takes the place of `CatalogRetriever` behind the query expert: it reads the dialogue from a
    `DialogueQueryBundle` and, where there is one, the refined query. A plain bundle counts as one message of
    the user. Built on first use, and again when the catalog's content has changed. May be shared between
    threads; async calls run in a thread.

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
        Sources to switch off; see `reges_index.fusion.scoring.SOURCES`. For ablations, and where a source
        is not wanted.
    hide_ruled_out
        Whether items that the user has turned down, and items of a genre that was ruled out ("no horror"),
        leave the ranking. Off, both only weigh against an item. If nothing else is left they stay. On the
        dev sets it moves no figure by more than one pair (finetune/FUSION.md); it is a promise, not a gain.
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
        hide_ruled_out: bool = False,
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
        self.hide_ruled_out = hide_ruled_out
        self.check_every = check_every
        _check_encoder(catalog, self.model)
        self._workshop = _Workshop()
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
        shop = self._workshop
        prepared = shop.prepared
        changes = self.catalog.changes
        wait = max(self.check_every, _LOOKS * shop.look_took) if self.check_every else 0.0
        if prepared is not None and shop.changes == changes and time.monotonic() - shop.looked < wait:
            return prepared
        began = time.monotonic()
        mark = self.catalog.fingerprint()
        shop.look_took = time.monotonic() - began
        if prepared is None or prepared.fingerprint != mark:
            with shop.lock:
                prepared = shop.prepared
                if prepared is None or prepared.fingerprint != mark:
                    prepared = shop.prepared = self._prepare()
        # Only now: while this thread builds, and where it fails, others must not take the old state for new.
        shop.looked, shop.changes = began, changes
        return prepared

    def _prepare(self) -> _Prepared:
        taken = Snapshot.of(self.catalog)
        sources = CatalogSources(taken.items, taken.vectors, self.model.statistics)
        return _Prepared(taken.fingerprint, sources, item_biases(self.model, taken.items))

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        nodes = self._ranked(query_bundle, self._ready())
        stale = time.monotonic() - self._workshop.looked > self.check_every
        if stale and len(self.catalog.held([node.node.node_id for node in nodes])) < len(nodes):
            self._workshop.looked = -math.inf
            nodes = self._ranked(query_bundle, self._ready())
        return nodes

    def _ranked(self, query_bundle: QueryBundle, prepared: _Prepared) -> list[NodeWithScore]:
        items = prepared.sources.items
        if not items:
            return []
        messages = dialogue_of(query_bundle)
        vectors = self._embed(query_bundle)
        state = prepared.sources.reader.read(messages)
        scores = score_items(
            self.model,
            prepared.sources,
            prepared.biases,
            messages,
            vectors,
            without=self.without,
            state=state,
        )
        allowed = allowed_ids(self.catalog, self.filters)
        places = np.arange(len(items))
        if allowed is not None:
            places = np.array([n for n, item in enumerate(items) if item.id in allowed], dtype=np.int64)
        if self.hide_ruled_out:
            places = _without_hidden(places, prepared.sources.ruled_out(state))
        if not len(places):
            return []
        chances = np.exp(log_softmax(scores[places]))
        best = np.argsort(-scores[places], kind="stable")[: self.similarity_top_k]
        template = self.catalog.template
        return [NodeWithScore(node=items[places[n]].to_node(template), score=float(chances[n])) for n in best]

    def _embed(self, bundle: QueryBundle) -> QueryVectors:
        messages = dialogue_of(bundle)
        whole, last = dialogue_texts(messages)
        if not whole:
            raise InputError("the query is empty", hint="pass a dialogue with text")
        # Before the query expert has run, the query string is the dialogue itself.
        refined = [text for text in bundle.custom_embedding_strs or () if text.strip()]
        found = np.array(embed_queries(self.catalog.embed_model, [whole, last, *refined]), dtype=np.float32)
        query = found[2:].mean(axis=0) if refined else None
        if query is None and bundle.embedding is not None:
            query = np.asarray(bundle.embedding, dtype=np.float32)
        return QueryVectors(found[0], found[1], query, self._by_tower(whole))

    def _by_tower(self, text: str) -> Floats | None:
        if self.model.tower is None:
            return None
        vector: Floats = QueryTower.shared(self.model.tower, self.catalog.embed_model).encode([text])[0]
        return vector

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)


def _without_hidden(places: npt.NDArray[np.int64], hidden: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    left: npt.NDArray[np.int64] = places[~hidden[places]]
    if len(left) < len(places):
        said = "hidden" if len(left) else "all that pass the filters, so they stay"
        logger.info("%d items are turned down or of a genre ruled out: %s", len(places) - len(left), said)
    return left if len(left) else places


def _check_encoder(catalog: ItemCatalog, model: FusionModel) -> None:
    if not model.fits(catalog):
        trained = model.manifest.get("encoder", {})
        name, dimension = trained.get("name"), trained.get("dimension")
        raise EncoderMismatchError(
            f"the fusion model was trained with encoder {name!r} of dimension {dimension}, catalog "
            f"{catalog.name!r} has {catalog.encoder.name!r} of dimension {catalog.encoder.dimension}",
            hint="use the default encoder, or train a model for yours with `reges finetune fusion`",
        )
