"""Retrieving with any LlamaIndex retriever without blocking the event loop."""

from __future__ import annotations

import asyncio
from inspect import getattr_static

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.indices.vector_store.retrievers import VectorIndexRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import BasePydanticVectorStore, VectorStore

__all__ = ["retrieve_off_loop"]


async def retrieve_off_loop(retriever: BaseRetriever, bundle: QueryBundle) -> list[NodeWithScore]:
    """Retrieve; in a thread where the retriever's own asynchronous path would do the work on the loop.

    It would where LlamaIndex's default stands in for a path of its own: in a retriever without
    ``_aretrieve``, and in a vector store without ``aquery``, such as Chroma's.
    """
    if _works_on_the_loop(retriever):
        return await asyncio.to_thread(retriever.retrieve, bundle)
    return await retriever.aretrieve(bundle)


def _works_on_the_loop(retriever: BaseRetriever) -> bool:
    # Compared statically: LlamaIndex's span decorator makes a new object of a method at each access.
    if getattr_static(type(retriever), "_aretrieve") is getattr_static(BaseRetriever, "_aretrieve"):
        return True
    if not isinstance(retriever, VectorIndexRetriever):
        return False
    aquery = getattr_static(type(retriever._vector_store), "aquery", None)
    defaults = [getattr_static(kind, "aquery") for kind in (BasePydanticVectorStore, VectorStore)]
    return any(aquery is default for default in defaults)
