"""The engine that recommend, chat and predict run on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reges_index.cli.parts import adapter_choice, open_catalog, open_model, parse_domain

if TYPE_CHECKING:
    from reges_index.catalog import ItemCatalog
    from reges_index.engines import ReGeSQueryEngine

__all__ = ["build_engine"]


def build_engine(
    *,
    store: str,
    name: str,
    encoder: str | None,
    model: str | None,
    query_adapter: str | None,
    item_adapter: str | None,
    domain: str,
    similarity_top_k: int,
    rerank_top_k: int | None,
    exclude_mentioned: bool,
    mode: str = "score",
) -> tuple[ReGeSQueryEngine, ItemCatalog]:
    """Open catalog and models, and put the engine together."""
    catalog = open_catalog(store, name, encoder)  # first: it fails fast, models take seconds

    from reges_index.engines import ReGeSQueryEngine
    from reges_index.item_expert import ReGeSRerank
    from reges_index.query_expert import ReGeSQueryTransform

    lm = open_model(model, query_adapter, item_adapter)
    wording = parse_domain(domain)
    selection: dict[str, Any] = {"mode": mode}
    engine = ReGeSQueryEngine.from_defaults(
        catalog,
        query_transform=ReGeSQueryTransform(lm, adapter=adapter_choice(query_adapter), domain=wording),
        rerank=ReGeSRerank(
            lm,
            adapter=adapter_choice(item_adapter),
            domain=wording,
            top_n=similarity_top_k,
            keep_retrieval_score=True,
            **selection,
        ),
        similarity_top_k=similarity_top_k,
        rerank_top_k=rerank_top_k,
        exclude_mentioned=exclude_mentioned,
    )
    return engine, catalog
