"""`ReGeSRetriever`: the query expert in front of any LlamaIndex retriever."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.prompts.mixin import PromptMixinType
from llama_index.core.schema import NodeWithScore, QueryBundle

from reges_index.query_expert.off_loop import retrieve_off_loop
from reges_index.query_expert.transform import ReGeSQueryTransform

__all__ = ["ReGeSRetriever"]


class ReGeSRetriever(BaseRetriever):
    """Refine the query, then retrieve: R(LLM_QR(H), I) of section 2.3.

    LlamaIndex's ``TransformRetriever`` does the same for plain queries; it has no asynchronous path.
    Use this one in a stock ``RetrieverQueryEngine`` or ``CondensePlusContextChatEngine``.

    Parameters
    ----------
    retriever
        Any retriever; it gets the refined bundle.
    query_transform
        The query expert; None builds one over the embedded default model.
    """

    def __init__(
        self,
        retriever: BaseRetriever,
        query_transform: ReGeSQueryTransform | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.retriever = retriever
        self.query_transform = query_transform or ReGeSQueryTransform.from_defaults()

    def _get_prompt_modules(self) -> PromptMixinType:
        return {"query_transform": self.query_transform}

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self.retriever.retrieve(self.query_transform.run(query_bundle))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await retrieve_off_loop(self.retriever, await self.query_transform.arun(query_bundle))
