"""Hard negatives for a second round of LLM_G: what a fusion that has not seen the turn ranks highest."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reges_index.errors import InputError
from reges_index.files import write_text
from reges_index.fusion.fitting import TrainSet
from reges_index.fusion.recipe import FusionRecipe
from reges_index.fusion.training import out_of_fold, ranked_out_of_fold

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding

__all__ = ["FusionNegatives", "mine_fusion_negatives"]

# Targets leave the lists afterwards, and no turn has more than a few.
_SPARE_FOR_TARGETS = 10


@dataclass(frozen=True)
class FusionNegatives:
    """What was written for one train set.

    Attributes
    ----------
    name, out
        The set, and its file.
    turns, written
        Turns there are, and those with a target in the catalog, which are written.
    """

    name: str
    out: str
    turns: int
    written: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def mine_fusion_negatives(
    recipe: FusionRecipe, out: Path, *, top_k: int = 50, embed_model: BaseEmbedding | None = None
) -> list[FusionNegatives]:
    """Write ``OUT/NAME.jsonl`` for each train set of a fusion's recipe, as `mine_negatives` writes them.

    The targets of a turn are in ``targets``, at their rank among all items, where they were ranked before the
    last negative.

    Parameters
    ----------
    top_k
        Negatives a turn.
    embed_model
        Goes before the recipe's own encoder.

    Raises
    ------
    InputError
        If ``top_k`` is below 1, or data cannot be read.
    TrainingError
        If no turn has a target in its catalog.
    StorageError
        If a file cannot be written.
    """
    if top_k < 1:
        raise InputError(f"top_k is {top_k}", hint="ask for at least one negative")
    sets = recipe.train_sets(embed_model)
    made = out_of_fold(sets, recipe.settings, recipe.bench(embed_model))
    ranked = ranked_out_of_fold(made, recipe.weights, top_k + _SPARE_FOR_TARGETS)
    written = []
    for its, lists in zip(sets, ranked, strict=True):
        rows = _rows(its, lists, top_k)
        file = out / f"{its.name}.jsonl"
        write_text(file, "".join(json.dumps(row) + "\n" for row in rows))
        written.append(FusionNegatives(its.name, str(file), len(its.turns), len(rows)))
    return written


def _rows(its: TrainSet, lists: list[list[tuple[int, float]]], top_k: int) -> list[dict[str, Any]]:
    rows = []
    for turn, targets, best in zip(its.turns, its.targets, lists, strict=True):
        if not targets:
            continue
        names = set(its.titles[targets].tolist())  # equal title and year: false negatives
        ranked = [(rank, n, score) for rank, (n, score) in enumerate(best, 1)]
        wrong = [entry for entry in ranked if int(its.titles[entry[1]]) not in names][:top_k]
        # Behind the last negative nothing is known of the order any more.
        last = wrong[-1][0] if len(wrong) == top_k else len(ranked)
        found = [entry for entry in ranked[:last] if entry[1] in targets]
        rows.append(
            {"id": turn.id, "query": "", "negatives": _entries(its, wrong), "targets": _entries(its, found)}
        )
    return rows


def _entries(its: TrainSet, ranked: list[tuple[int, int, float]]) -> list[dict[str, Any]]:
    return [{"id": its.sources.items[n].id, "rank": rank, "score": score} for rank, n, score in ranked]
