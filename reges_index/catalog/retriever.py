"""`CatalogRetriever`: the retriever R of paper section 2.3 over a catalog."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import MetadataFilters

from reges_index.errors import InputError

if TYPE_CHECKING:
    from reges_index.catalog.reader import CatalogReader

__all__ = ["CatalogRetriever"]


class CatalogRetriever(BaseRetriever):
    """Retrieves items by the cosine of query and item text.

    Uses ``QueryBundle.embedding`` if there is one, else the mean over ``embedding_strs`` (that is
    ``custom_embedding_strs``, or the query itself). Async calls run in a thread and leave the loop free.

    Parameters
    ----------
    catalog
        Where to look.
    similarity_top_k
        How many items; more than there are returns all.
    filters
        Restrictions on metadata; see `reges_index.catalog.filters` for lists.
    callback_manager
        As everywhere in LlamaIndex.
    hybrid
        Search by words and vector together, where the store can (`CatalogReader.query_hybrid`). Takes the
        texts to embed as the words to look for; an embedding in the bundle is not used then.

    Raises
    ------
    InputError
        If `similarity_top_k` is below 1.
    """

    def __init__(
        self,
        catalog: CatalogReader,
        similarity_top_k: int = 50,
        filters: MetadataFilters | None = None,
        callback_manager: CallbackManager | None = None,
        *,
        hybrid: bool = False,
    ) -> None:
        if similarity_top_k < 1:
            raise InputError(f"similarity_top_k is {similarity_top_k}", hint="ask for at least one item")
        self.catalog = catalog
        self.similarity_top_k = similarity_top_k
        self.filters = filters
        self.hybrid = hybrid
        super().__init__(callback_manager=callback_manager)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        vector = query_bundle.embedding
        if vector is None or self.hybrid:
            texts = [text for text in query_bundle.embedding_strs if text.strip()]
            if not texts:
                raise InputError("the query is empty", hint="pass a text or an embedding")
            if self.hybrid:
                return self.catalog.query_hybrid(
                    "\n".join(texts), self.similarity_top_k, filters=self.filters
                )
            vector = self.catalog.embed_model.get_agg_embedding_from_queries(texts)
        return self.catalog.query(vector, self.similarity_top_k, filters=self.filters)

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)
