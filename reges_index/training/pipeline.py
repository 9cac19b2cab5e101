"""`run_recipe`: pseudo-queries, LLM_QR, negatives, LLM_G, a fusion: one after the other, each done once."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.llms.llm import LLM

from reges_index.models.local_lm import LocalLM
from reges_index.training.recipe import Recipe, load_recipe
from reges_index.training.recipe_data import RecipeData
from reges_index.training.recipe_steps import RecipeSteps, StepProgress
from reges_index.training.steps import StepLog, StepResult

__all__ = ["RecipeReport", "run_recipe"]


@dataclass(frozen=True)
class RecipeReport:
    """What a run did.

    Attributes
    ----------
    name, out
        Of the recipe.
    steps
        In order, with what each wrote and reported.
    query_expert, item_expert
        The adapters' folders.
    fusion
        The fusion's folder; None where the recipe trains none.
    seconds
        Wall clock of this call.
    """

    name: str
    out: str
    steps: tuple[StepResult, ...]
    query_expert: str
    item_expert: str | None
    seconds: float
    fusion: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return asdict(self)


def run_recipe(
    recipe: Recipe | str | Path,
    *,
    out: str | Path | None = None,
    teacher: LLM | LocalLM | None = None,
    embed_model: BaseEmbedding | None = None,
    progress: StepProgress | None = None,
) -> RecipeReport:
    """Run all steps of a recipe, skipping what is done.

    May be killed at any point and called again: files of notes and negatives go on at the next turn, training
    at the newest checkpoint. A step runs again when its settings, or the content of what it reads, changed;
    its old outputs are moved to ``steps/set-aside``.

    Parameters
    ----------
    recipe
        A `Recipe`, or a YAML file.
    out
        Goes before the recipe's own folder.
    teacher, embed_model
        Go before the recipe's own teacher and encoder.
    progress
        For progress bars.

    Raises
    ------
    ConfigError
        If the recipe cannot be used.
    InputError
        If data cannot be read, or ids repeat over data sets. Found before any step runs.
    ModelError, TrainingError, StorageError
        From the steps; what was finished is kept.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, out=out)
    elif out is not None:
        recipe = recipe.model_copy(update={"out": Path(out)})
    started = time.monotonic()
    data = RecipeData(recipe)
    data.check()
    run = RecipeSteps(data, teacher, embed_model, progress)
    log = StepLog(recipe.out / "steps")
    results = [log.do(step()) for step in run.steps()]
    run.recommend()
    item_expert = None if recipe.item_expert is None else str(data.item_dir)
    return RecipeReport(
        recipe.name,
        str(recipe.out),
        tuple(results),
        str(data.query_dir),
        item_expert,
        time.monotonic() - started,
        None if recipe.fusion is None else str(data.fusion_dir),
    )
