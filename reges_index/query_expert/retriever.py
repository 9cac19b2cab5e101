"""`ReGeSRetriever`: the query expert in front of any LlamaIndex retriever."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.prompts.mixin import PromptMixinType
from llama_index.core.schema import NodeWithScore, QueryBundle

from reges_index.catalog.fields import FieldNames
from reges_index.catalog.item import as_item_nodes, with_metadata
from reges_index.driver import Do, Work, arun, off_loop_retrieval, run
from reges_index.query_expert.transform import ReGeSQueryTransform

# LlamaIndex's engines hand a postprocessor and a synthesizer the bundle as it was asked, and the nodes. So it
# is the nodes that carry what was searched with. The underscore keeps these keys out of `Item.metadata`.
QUERY_KEY, REPORT_KEY = "_query", "_report"


class ReGeSRetriever(BaseRetriever):
    """Refine the query, then retrieve: R(LLM_QR(H), I) of section 2.3.

    LlamaIndex's ``TransformRetriever`` does the same for plain queries; it has no asynchronous path.
    Use this one in a stock ``RetrieverQueryEngine`` or ``CondensePlusContextChatEngine``. With a
    `ReGeSSynthesizer` the response's metadata then has the ``query`` and the ``report``.

    Parameters
    ----------
    retriever
        Any retriever; it gets the refined bundle.
    query_transform
        The query expert; None builds one over the embedded default model.
    title_key, field_names
        Which metadata keys of the retriever's nodes hold the title and other fields of an item, where they
        are not called as usual: ``title_key="label"``, ``field_names={"year": "released"}``. The nodes are
        then those of the items, so that whatever comes after knows the fields.
    """

    reads_query: ClassVar[bool] = False
    """It writes its own: an engine around it need not."""

    def __init__(
        self,
        retriever: BaseRetriever,
        query_transform: ReGeSQueryTransform | None = None,
        *,
        title_key: str | None = None,
        field_names: FieldNames | Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._names = FieldNames.of(field_names, title_key) if title_key or field_names else None
        self.retriever = retriever
        self.query_transform = query_transform or ReGeSQueryTransform()

    @property
    def scores_are_probabilities(self) -> bool:
        """Whether the retriever behind says so of its scores."""
        return bool(getattr(self.retriever, "scores_are_probabilities", False))

    def _get_prompt_modules(self) -> PromptMixinType:
        return {"query_transform": self.query_transform}

    def _retrieving(self, bundle: QueryBundle) -> Work[list[NodeWithScore]]:
        refined = yield Do(
            partial(self.query_transform.run, bundle), partial(self.query_transform.arun, bundle)
        )
        nodes: list[NodeWithScore] = yield off_loop_retrieval(self.retriever, refined)
        if self._names is not None:
            nodes = as_item_nodes(nodes, self._names)
        more = {QUERY_KEY: refined.query_str, REPORT_KEY: refined.report}
        return [with_metadata(node, more) for node in nodes]

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return run(self._retrieving(query_bundle))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await arun(self._retrieving(query_bundle))
