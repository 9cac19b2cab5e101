"""Which fusion a pipeline has, and which of its settings then say nothing."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from reges_index.catalog import ItemCatalog, LiveCatalog
from reges_index.errors import ConfigError
from reges_index.fusion.model import FusionModel
from reges_index.pipeline.settings import AUTO, GIVEN, NONE, SHIPPED, PipelineSettings

__all__ = ["LOADED_FROM", "fusion_of"]

logger = logging.getLogger(__name__)

LOADED_FROM = "loaded_from"
"""Key of a fusion model's manifest that says which folder settings named it by."""

# What only matters to an item expert that is asked, or to a query that is looked at.
_SCORES = ("auto", "score")
_OF_ITEM_EXPERT = ("length_penalty", "max_candidate_tokens", "select_prompt", "reasoning")
_OF_QUERY_EXPERT = ("query_llm",)


def fusion_of(
    settings: PipelineSettings, catalog: ItemCatalog | LiveCatalog | None, given: FusionModel | None
) -> FusionModel | None:
    """Return the fusion that settings name, or the one that is given.

    "auto" takes the shipped one only where nothing asks for what it would leave without effect. A fusion that
    is asked for by name stays, and what it leaves without effect is logged as a warning.

    Raises
    ------
    ConfigError
        If it is an object ("given") that was not passed, or there is none to do ``hide_ruled_out``.
    ModelNotFoundError, ModelError
        If its folder is missing or damaged.
    """
    model = _chosen(settings, catalog, given)
    # Over a retriever there can be neither, which is the engine's to say.
    if settings.hide_ruled_out and model is None and catalog is not None:
        raise ConfigError(
            f"hide_ruled_out needs a fusion, and this pipeline has none (fusion: {settings.fusion})",
            hint="use fusion: shipped (--fusion), or hide_ruled_out: false (--show-ruled-out)",
        )
    return model


def _chosen(
    settings: PipelineSettings, catalog: ItemCatalog | LiveCatalog | None, given: FusionModel | None
) -> FusionModel | None:
    if settings.fusion == AUTO and given is None:
        return _automatic(settings, catalog)
    model = given if given is not None else _named(settings)
    if model is not None and model.decides_alone and (unheard := _passed_over(settings)):
        logger.warning(
            "the fusion decides alone, so LLM_G is not asked: %s will have no effect; use fusion: none "
            "(--no-fusion), or fit its final choice with `reges finetune fusion-choice`",
            ", ".join(unheard),
        )
    return model


def _named(settings: PipelineSettings) -> FusionModel | None:
    if settings.fusion == GIVEN:
        raise ConfigError("this pipeline's fusion is an object without a folder", hint="pass it: fusion=...")
    if settings.fusion == NONE:
        return None
    if settings.fusion == SHIPPED:
        return FusionModel.default()
    model = FusionModel.load(settings.fusion)
    folder = str(Path(settings.fusion).expanduser().resolve())
    return replace(model, manifest={**model.manifest, LOADED_FROM: folder})


def _automatic(settings: PipelineSettings, catalog: ItemCatalog | LiveCatalog | None) -> FusionModel | None:
    # A model, an item expert or a way of choosing of one's own: then LLM_G shall choose, as in the paper.
    usual = (settings.llm, settings.item_adapter) == ("embedded", SHIPPED) and settings.mode in _SCORES
    if not usual or catalog is None:
        return None
    model = FusionModel.default_for(catalog)
    if model is None:
        return None
    wanted = []
    if model.decides_alone:
        wanted += [name for name in _OF_ITEM_EXPERT if getattr(settings, name) is not None]
    if not model.uses_query:
        wanted += [name for name in _OF_QUERY_EXPERT if getattr(settings, name) is not None]
        wanted += ["query_adapter"] if settings.query_adapter != SHIPPED else []
    if wanted:
        logger.info("no fusion, which would leave %s without effect", ", ".join(wanted))
    return None if wanted else model


def _passed_over(settings: PipelineSettings) -> list[str]:
    """Return what was chosen for an item expert that is not asked.

    Not numbers and prompts: a saved pipeline states all of them, also those that nobody has chosen.
    """
    found = [f"mode: {settings.mode}"] if settings.mode not in _SCORES else []
    if settings.item_adapter not in (SHIPPED, NONE):
        found.append(f"item_adapter: {settings.item_adapter}")
    return found
