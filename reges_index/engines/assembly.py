"""Putting the parts of an engine together: defaults for what was not given, errors for what contradicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.llms.llm import LLM
from llama_index.core.schema import NodeWithScore
from llama_index.core.vector_stores import MetadataFilters

from reges_index.catalog import ItemCatalog, LiveCatalog
from reges_index.dialogue.wording import Domain
from reges_index.engines.arguments import check_options
from reges_index.engines.retrieval import CatalogSource, RetrieverSource
from reges_index.errors import ConfigError
from reges_index.fusion.model import FusionModel
from reges_index.item_expert.rerank import Ranking, ReGeSRerank
from reges_index.item_expert.synthesizer import ReGeSSynthesizer
from reges_index.models.local_lm import LocalLM
from reges_index.query_expert.transform import ReGeSQueryTransform

__all__ = ["EngineParts", "engine_parts"]


@dataclass(frozen=True)
class EngineParts:
    """What `ReGeSQueryEngine` is made of; see its parameters."""

    retrieve: RetrieverSource
    query_transform: ReGeSQueryTransform
    rerank: ReGeSRerank
    response_synthesizer: ReGeSSynthesizer
    choice: Callable[[Ranking], Ranking] | None
    rank_alone: Callable[[Sequence[NodeWithScore]], Ranking] | None


def engine_parts(
    catalog: ItemCatalog | LiveCatalog | None,
    *,
    retriever: BaseRetriever | None,
    llm: LLM | LocalLM | None,
    query_llm: LLM | LocalLM | None,
    similarity_top_k: int,
    rerank_top_k: int | None,
    fusion: FusionModel | Literal["auto"] | None,
    filters: MetadataFilters | None,
    hide_ruled_out: bool,
    domain: Domain,
    query_transform: ReGeSQueryTransform | None,
    rerank: ReGeSRerank | None,
    response_synthesizer: ReGeSSynthesizer | None,
    on_error: Literal["raise", "retrieval_order"],
    verbose: bool,
    rerank_options: Mapping[str, Any],
) -> EngineParts:
    """Return the parts of an engine; arguments and errors are those of `ReGeSQueryEngine.from_defaults`."""
    check_options(rerank_options, ReGeSRerank)
    if fusion == "auto":
        own = (llm, query_llm, query_transform, rerank, retriever)
        # An LLM, a part or a way of choosing of the user's own: then LLM_G shall choose, as in the paper.
        embedded = all(part is None for part in own) and not rerank_options.keys() - {"top_n"}
        fusion = FusionModel.default_for(catalog) if embedded and catalog is not None else None
    source = _source(catalog, retriever, fusion, filters, hide_ruled_out)
    if on_error not in ("raise", "retrieval_order"):
        raise ConfigError(f"on_error={on_error!r} is unknown", hint="use raise or retrieval_order")
    goes_on = on_error == "retrieval_order"
    given = [*rerank_options, *(["on_error"] if goes_on else [])]
    if rerank is not None and given:
        raise ConfigError(
            f"{', '.join(given)} cannot be set on the rerank that was given",
            hint="give them to ReGeSRerank",
        )
    if llm is None and query_llm is None and (query_transform is None or rerank is None):
        llm = LocalLM.default()
    if query_transform is None:
        writer = query_llm if query_llm is not None else llm
        query_transform = ReGeSQueryTransform(
            writer, domain=domain, on_error="last_message" if goes_on else "raise", verbose=verbose
        )
    if rerank is None:
        usual = {"top_n": rerank_top_k or similarity_top_k, "keep_retrieval_score": True}
        rerank = ReGeSRerank(
            llm, domain=domain, on_error=on_error, verbose=verbose, **{**usual, **rerank_options}
        )
    if response_synthesizer is None:
        response_synthesizer = ReGeSSynthesizer(on_error="title" if goes_on else "raise")
    return EngineParts(
        source,
        query_transform,
        rerank,
        response_synthesizer,
        choice=fusion.choose if fusion is not None else None,
        # Asking LLM_G costs seconds; where its word weighs nothing, the answer is the same without.
        rank_alone=fusion.rank_alone if fusion is not None and fusion.decides_alone else None,
    )


def _source(
    catalog: ItemCatalog | LiveCatalog | None,
    retriever: BaseRetriever | None,
    fusion: FusionModel | None,
    filters: MetadataFilters | None,
    hide_ruled_out: bool,
) -> RetrieverSource:
    if (catalog is None) == (retriever is None):
        raise ConfigError("an engine needs a catalog or a retriever, one of the two")
    if catalog is not None:
        return CatalogSource(catalog, filters, fusion, hide_ruled_out=hide_ruled_out)
    if filters is not None or fusion is not None or hide_ruled_out:
        raise ConfigError(
            "filters, fusion and hide_ruled_out go into your retriever", hint="or pass catalog= instead of it"
        )
    assert retriever is not None
    return retriever
