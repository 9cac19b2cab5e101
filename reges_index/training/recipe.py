"""A whole run as one YAML file: what to train, on what, with which settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reges_index.dialogue.wording import Domain
from reges_index.errors import ConfigError
from reges_index.files import load_yaml, read_json
from reges_index.settings import QueryDecoding
from reges_index.training.config import ExpertTraining, Place
from reges_index.training.data import DataSet, ModelName, domain_sets
from reges_index.training.teacher import TeacherSettings


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DomainFolders(_Section):
    """Many small data sets: each folder holds ``catalog.jsonl`` and ``turns.jsonl``.

    The turns bring their pseudo-queries themselves, in the field ``query``.

    Attributes
    ----------
    folder
        What holds the folders.
    nouns
        JSON: what an item is called, by the folder's name.
    kept_out
        Names of folders that are not trained on.
    """

    folder: Place
    nouns: Place
    kept_out: tuple[str, ...] = ()

    def data(self) -> list[DataSet]:
        """Return a data set for each folder, in the order of their names."""
        nouns = read_json(self.nouns)
        sets = [its for its in domain_sets(self.folder) if its.name not in self.kept_out]
        missing = next((its.name for its in sets if its.name not in nouns), None)
        if missing is not None:
            raise ConfigError(f"{self.nouns}: no noun for {missing!r}", hint='as {"novels": "novel"}')
        return [
            its.model_copy(update={"pseudo_queries": its.conversations, "item_noun": nouns[its.name]})
            for its in sets
        ]


class TeacherChoice(_Section):
    """The teacher and how it is asked.

    Attributes
    ----------
    llm
        See `reges_index.training.teacher.Teacher`.
    options
        How it is asked.
    filter_leaks
        Leave out queries that name a target which the dialogue does not name.
    """

    llm: ModelName
    options: TeacherSettings = TeacherSettings()
    filter_leaks: bool = True


class NegativesSettings(_Section):
    """Hard negatives; see `reges_index.training.negatives.mine_negatives`.

    Attributes
    ----------
    top_k
        Section 3.3: the retriever returns the top 50.
    batch_size
        Turns decoded together.
    """

    top_k: int = Field(default=50, ge=1)
    batch_size: int = Field(default=16, ge=1)


class Recipe(_Section):
    """A run of all four steps, and of the fusion's where it is asked for.

    Attributes
    ----------
    name
        Of the run.
    base, revision
        The model to train, as `LocalLM.from_pretrained` takes it.
    out
        Folder for everything that the run writes.
    data
        Data sets; of each what there is already, and the run writes the rest.
    domains
        More data sets, one a folder.
    encoder
        Of the catalogs, as `resolve_encoder` takes it: "embedded" (all-MiniLM-L6-v2), "dpr", "bge-large", ...
    teacher
        Needed when a data set brings no pseudo-queries (or, with ``cot``, no reasoning).
    query_expert, item_expert
        Training settings of each; None leaves the expert out. Without a query expert, negatives are what the
        retriever finds for the dialogue itself, newest message first.
    decoding
        Fields of `QueryDecoding`, used for the negatives and recommended by the query expert's manifest.
    negatives
        How hard negatives are mined.
    distill
        Have the teacher rank items for each turn first ("retrieved" or "free", see
        `reges_index.training.rankings.write_rankings`). A turn without targets has the first of its ranking
        as its target from then on, and LLM_G's soft targets are the others, so that dialogues which nobody
        has labelled are enough. None does without.
    cot
        Train the item expert to write down preferences first (section 3.7.2).
    fusion
        Recipe of a fusion (`reges_index.training.fusion`), which is trained as the last step into the folder
        ``fusion`` of the run, whatever ``out`` it names itself; None leaves it out.
    item_noun, item_plural
        What an item is called.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    out: Place
    data: tuple[DataSet, ...] = ()
    domains: DomainFolders | None = None
    base: ModelName = "embedded"
    revision: str | None = None
    encoder: ModelName = "embedded"
    teacher: TeacherChoice | None = None
    query_expert: ExpertTraining | None = ExpertTraining()
    decoding: dict[str, Any] = Field(default_factory=dict)
    negatives: NegativesSettings = NegativesSettings()
    item_expert: ExpertTraining | None = ExpertTraining()
    distill: Literal["retrieved", "free"] | None = None
    cot: bool = False
    fusion: Place | None = None
    item_noun: str = "movie"
    item_plural: str = "movies"

    @model_validator(mode="after")
    def _can_be_run(self) -> Recipe:
        if not self.data and self.domains is None:
            raise ValueError("there is no data: give data, domains or both")
        if self.query_expert is None and self.item_expert is None:
            raise ValueError("there is nothing to train: query_expert and item_expert are both left out")
        if len({part.name for part in self.data}) < len(self.data):
            raise ValueError("two data sets have the same name")
        for part in self.data:
            missing = [kind for kind in self.written if not getattr(part, kind) and kind != "hard_negatives"]
            if missing and self.teacher is None:
                raise ValueError(f"{part.name} brings no {missing[0]} and there is no teacher to write them")
        _ = self.query_decoding  # raises where a value cannot be
        if (
            self.item_expert is not None
            and "hard_negatives" in self.written
            and self.item_expert.num_candidates > self.negatives.top_k
        ):
            raise ValueError(
                f"item_expert.num_candidates={self.item_expert.num_candidates} is more than "
                f"negatives.top_k={self.negatives.top_k}"
            )
        return self

    @property
    def written(self) -> tuple[str, ...]:
        """Kinds of files, as `DataSet` names them, that the run writes where a data set brings none."""
        expert = self.item_expert
        wanted = {
            "teacher_rankings": self.distill is not None,
            "pseudo_queries": self.query_expert is not None,
            "hard_negatives": expert is not None and expert.negatives != "random",
            "reasoning": expert is not None and self.cot,
        }
        return tuple(kind for kind, is_wanted in wanted.items() if is_wanted)

    @property
    def sets(self) -> list[DataSet]:
        """All data sets."""
        return [*self.data, *(self.domains.data() if self.domains is not None else ())]

    @property
    def domain(self) -> Domain:
        """What an item is called in prompts."""
        return Domain(self.item_noun, self.item_plural)

    @property
    def query_decoding(self) -> QueryDecoding:
        """How the query expert writes when negatives are mined."""
        return QueryDecoding.parse(self.decoding, where="recipe")


def load_recipe(path: str | Path, *, out: str | Path | None = None) -> Recipe:
    """Read a recipe; its paths are relative to its own folder, and ``out`` goes before the recipe's own.

    Folders of models (base, encoder, teacher) are relative to it where they begin with ``.``: any other name
    may be one of the hub. Errors are those of `load_yaml`.
    """
    recipe = load_yaml(path, Recipe, hint="see finetune/recipes for examples")
    return recipe if out is None else recipe.model_copy(update={"out": Path(out)})
