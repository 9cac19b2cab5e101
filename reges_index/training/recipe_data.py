"""What a recipe reads, and where it writes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from reges_index.catalog import Item, read_items
from reges_index.dialogue import Turn, read_turns
from reges_index.dialogue.wording import Domain
from reges_index.errors import InputError
from reges_index.files import json_lines
from reges_index.training.fusion import FusionRecipe, read_recipe
from reges_index.training.pseudo_queries import read_pseudo_queries, read_reasoning
from reges_index.training.rankings import labelled, read_rankings
from reges_index.training.recipe import DataSet, Recipe

__all__ = ["RecipeData", "share_of_dialogues"]


@dataclass
class RecipeData:
    """The data sets of a recipe, read once, and the places of its outputs."""

    recipe: Recipe

    # -- the data --------------------------------------------------------------------------------------

    @cached_property
    def turns(self) -> dict[str, list[Turn]]:
        """Turns of each data set."""
        return {
            part.name: share_of_dialogues(read_turns(part.conversations), part.share)
            for part in self.recipe.data
        }

    @cached_property
    def domains(self) -> dict[str, Domain]:
        """What an item is called, for each turn."""
        return {
            turn.id: self.recipe.domain_of(part)
            for part in self.recipe.data
            for turn in self.turns[part.name]
        }

    @cached_property
    def items(self) -> dict[str, dict[str, Item]]:
        """Items of each data set, by id."""
        return {part.name: {item.id: item for item in read_items(part.catalog)} for part in self.recipe.data}

    @property
    def all_turns(self) -> list[Turn]:
        """Turns of all data sets."""
        return [turn for turns in self.turns.values() for turn in turns]

    @property
    def all_items(self) -> dict[str, Item]:
        """Items of all data sets, by id."""
        return {key: item for items in self.items.values() for key, item in items.items()}

    @cached_property
    def fusion(self) -> FusionRecipe | None:
        """Recipe of the fusion, written into this run's folder; None where there shall be none."""
        if self.recipe.fusion is None:
            return None
        return read_recipe(self.recipe.fusion).model_copy(update={"out": self.fusion_dir})

    def check(self) -> None:
        """Read everything that is there already: hours later would be a bad time to find a typo."""
        for its in self.fusion.data if self.fusion is not None else ():
            for path in (its.conversations, its.catalog):
                if not path.is_file():
                    raise InputError(
                        f"{self.recipe.fusion}: {its.name}: {path} is no file",
                        hint="paths in a fusion's recipe are relative to that recipe",
                    )
        for kind, parts in (("turn", self.turns), ("item", self.items)):
            owner: dict[str, str] = {}
            for name, entries in parts.items():
                for entry in entries:
                    key = entry if isinstance(entry, str) else entry.id
                    if key in owner:
                        raise InputError(
                            f"{kind} {key!r} is in {owner[key]} and in {name}",
                            hint="ids have to be unique over all data sets of a recipe",
                        )
                    owner[key] = name
        for part in self.recipe.data:
            if part.pseudo_queries is not None:
                self.read_queries(part)
            if part.teacher_rankings is not None:
                self.rankings(part)
            if self.recipe.cot and part.reasoning is not None:
                read_reasoning(part.reasoning, turns=self.turns[part.name])

    def rankings(self, part: DataSet) -> dict[str, list[str]]:
        """Return what fits each turn, best first: the turns' own ``suitable``, else the teacher's ranking."""
        turns, items = self.turns[part.name], self.items[part.name]
        own: dict[str, Any] = {
            str(row.get("id")): row.get("suitable") for _, row in json_lines(part.conversations)
        }
        found = {turn.id: list(map(str, own[turn.id])) for turn in turns if own.get(turn.id)}
        file = self.rankings_file(part)
        if file is not None:
            found = {**read_rankings(file, turns=turns, items=list(items.values())), **found}
        return found

    def labelled(self, part: DataSet) -> list[Turn]:
        """Return the turns; those without targets have the teacher's first, where it has ranked for them."""
        turns = self.turns[part.name]
        if self.rankings_file(part) is None:
            return turns
        return labelled(turns, self.rankings(part))

    def read_queries(self, part: DataSet) -> dict[str, str]:
        """Read a data set's pseudo-queries; those of turns that its share leaves out are left out too."""
        kept = {turn.id for turn in self.turns[part.name]}
        turns = self.turns[part.name] if part.share == 1 else read_turns(part.conversations)
        queries = read_pseudo_queries(self.queries_file(part), turns=turns)
        return {key: query for key, query in queries.items() if key in kept}

    # -- where things are ------------------------------------------------------------------------------

    @property
    def query_dir(self) -> Path:
        """Folder of the query expert."""
        return self.recipe.out / "query-expert"

    @property
    def item_dir(self) -> Path:
        """Folder of the item expert."""
        return self.recipe.out / ("item-expert-cot" if self.recipe.cot else "item-expert")

    @property
    def fusion_dir(self) -> Path:
        """Folder of the fusion."""
        return self.recipe.out / "fusion"

    def rankings_file(self, part: DataSet) -> Path | None:
        """Return the file of a teacher's rankings, given or to be written; None where there is none."""
        if part.teacher_rankings is not None or self.recipe.distill is None:
            return part.teacher_rankings
        return self.recipe.out / "rankings" / f"{part.name}.jsonl"

    def queries_file(self, part: DataSet) -> Path:
        """Return the file of pseudo-queries, given or to be written."""
        return part.pseudo_queries or self.recipe.out / "pseudo-queries" / f"{part.name}.jsonl"

    def reasoning_file(self, part: DataSet) -> Path:
        """Return the file of reasoning, given or to be written."""
        return part.reasoning or self.recipe.out / "reasoning" / f"{part.name}.jsonl"

    def negatives_file(self, part: DataSet) -> Path:
        """Return the file of hard negatives."""
        return self.recipe.out / "negatives" / f"{part.name}.jsonl"


def share_of_dialogues(turns: Sequence[Turn], share: float) -> list[Turn]:
    """Return the turns of a share of the dialogues, always the same ones."""
    if share == 1:
        return list(turns)
    dialogues = sorted({turn.dialog_id or turn.id for turn in turns})
    count = max(1, round(share * len(dialogues)))
    kept = set(random.Random("share").sample(dialogues, count))
    return [turn for turn in turns if (turn.dialog_id or turn.id) in kept]
