"""Training a fusion, or its query adapter alone, by a recipe."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reges_index.fusion.recipe import FusionRecipe
from reges_index.fusion.training import (
    REPEATS_MISSED,
    cross_validate,
    features_outside,
    fit_fusion,
    out_of_fold,
)

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding

__all__ = ["QUERY_ADAPTER", "FusionReport", "query_adapter_folder", "train_by_recipe"]

QUERY_ADAPTER = ("adapter",)
"""The one source of `train_by_recipe` that makes a fusion of the trained query side alone."""


@dataclass(frozen=True)
class FusionReport:
    """What a training gave.

    Attributes
    ----------
    out
        Folder of the model.
    cross_validation
        Protocol ("all", or "new" without named items) -> data set -> recall at 1, 10 and 50 and the number
        of pairs of turn and target; each turn is judged by a fusion that has not seen it. Recall is None
        where there are no pairs.
    repeat_share_missed
        Whether `WeightTraining.repeat_share` was out of reach, so that named items weigh what was learnt.
    """

    out: str
    cross_validation: dict[str, dict[str, dict[str, float | None]]]
    repeat_share_missed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return asdict(self)


def query_adapter_folder(recipe: FusionRecipe) -> Path:
    """Return where the query adapter alone is written by default: beside the recipe's fusion."""
    return recipe.out.with_name(f"{recipe.out.name}-query-adapter")


def train_by_recipe(
    recipe: FusionRecipe,
    *,
    out: Path | None = None,
    only: Collection[str] | None = None,
    embed_model: BaseEmbedding | None = None,
) -> FusionReport:
    """Train what a recipe describes and write the model.

    Parameters
    ----------
    out
        Goes before the recipe's own folder.
    only
        Names of `reges_index.fusion.SOURCES` whose features may have weight, such as `QUERY_ADAPTER`; None
        gives it to all. What is written is a `FusionModel` in either case.
    embed_model
        Goes before the recipe's own encoder.

    Raises
    ------
    InputError
        If data cannot be read, or a source's name is unknown.
    TrainingError
        If no turn has a target in its catalog, or all that have one are in one fold.
    ConfigError
        If a query tower is to be trained over an encoder that cannot be trained.
    """
    without = features_outside(only)
    sets, bench = recipe.train_sets(embed_model), recipe.bench(embed_model)
    made = out_of_fold(sets, recipe.settings, bench)
    scores = cross_validate(made, recipe.weights, without=without)
    manifest = recipe.manifest(embed_model) | ({} if only is None else {"sources": sorted(only)})
    model = fit_fusion(sets, recipe.settings, manifest, made, bench, without=without)
    place = recipe.out if out is None else out
    model.save(place)
    names = [its.name for its in sets]
    return FusionReport(
        str(place),
        {protocol: dict(zip(names, found, strict=True)) for protocol, found in scores.items()},
        repeat_share_missed=bool(model.manifest.get(REPEATS_MISSED)),
    )
