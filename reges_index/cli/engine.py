"""The engine that recommend, chat and predict run on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reges_index.cli.parts import Mode, adapter_choice, is_url, open_catalog, open_model, parse_domain

if TYPE_CHECKING:
    from reges_index.catalog import ItemCatalog
    from reges_index.engines import ReGeSQueryEngine
    from reges_index.fusion import FusionModel

__all__ = ["EngineOptions", "build_engine"]


@dataclass(frozen=True)
class EngineOptions:
    """What recommendations depend on: the options that recommend, chat and predict share."""

    store: str
    name: str
    encoder: str | None
    model: str | None
    query_adapter: str | None
    item_adapter: str | None
    domain: str
    similarity_top_k: int
    rerank_top_k: int | None
    exclude_mentioned: bool
    mode: Mode = Mode.score
    fusion: bool | None = None

    def settings(self) -> dict[str, Any]:
        """Return them as plain values, the store as one name whichever folder `reges` was called in."""
        store = self.store if is_url(self.store) else str(Path(self.store).expanduser().resolve())
        return {**asdict(self), "store": store, "mode": self.mode.value}


def build_engine(options: EngineOptions) -> tuple[ReGeSQueryEngine, ItemCatalog]:
    """Open catalog and models, and put the engine together."""
    domain = parse_domain(options.domain)
    # First, since it fails fast; models take seconds.
    catalog = open_catalog(options.store, options.name, options.encoder)

    from reges_index.engines import ReGeSQueryEngine
    from reges_index.item_expert import ReGeSRerank
    from reges_index.query_expert import ReGeSQueryTransform

    lm = open_model(options.model, options.query_adapter, options.item_adapter)
    query_adapter, item_adapter = map(adapter_choice, (options.query_adapter, options.item_adapter))
    engine = ReGeSQueryEngine.from_defaults(
        catalog,
        fusion=_fusion(options, catalog),
        query_transform=ReGeSQueryTransform(lm, adapter=query_adapter, domain=domain),
        rerank=ReGeSRerank(
            lm,
            adapter=item_adapter,
            domain=domain,
            mode=options.mode.value,
            top_n=options.similarity_top_k,
            keep_retrieval_score=True,
        ),
        similarity_top_k=options.similarity_top_k,
        rerank_top_k=options.rerank_top_k,
        exclude_mentioned=options.exclude_mentioned,
    )
    return engine, catalog


def _fusion(options: EngineOptions, catalog: ItemCatalog) -> FusionModel | None:
    """Return the shipped fusion where it was asked for, or where it fits and nothing was said.

    An LLM, an item expert or a way of choosing of one's own says that LLM_G shall choose, as in the paper.
    """
    own = options.model, options.item_adapter, None if options.mode is Mode.score else options.mode
    if options.fusion is False or (options.fusion is None and any(part is not None for part in own)):
        return None

    from reges_index.fusion import FusionModel

    model = FusionModel.default()
    return model if options.fusion or model.fits(catalog) else None
