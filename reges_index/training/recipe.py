"""A whole run as one YAML file: what to train, on what, with which settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    field_validator,
    model_validator,
)

from reges_index.catalog.encoder_names import name_beside
from reges_index.dialogue.wording import Domain
from reges_index.errors import ConfigError
from reges_index.files import load_yaml
from reges_index.settings import QueryDecoding
from reges_index.training.config import ExpertTraining
from reges_index.training.teacher import TeacherSettings

__all__ = ["DataSet", "NegativesSettings", "Recipe", "TeacherChoice", "load_recipe"]

_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


_T = TypeVar("_T")


def _checked(kind: type[_T], values: dict[str, Any]) -> _T:
    """Build a dataclass from a recipe's section; wrong types and unknown keys are errors."""
    unknown = set(values) - set(kind.__dataclass_fields__)  # type: ignore[attr-defined]
    if unknown:
        known = ", ".join(kind.__dataclass_fields__)  # type: ignore[attr-defined]
        raise ValueError(f"unknown key {sorted(unknown)[0]!r}; known: {known}")
    return TypeAdapter(kind).validate_python(values)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSet(_Section):
    """Conversations with their catalog.

    Attributes
    ----------
    name
        For file names.
    conversations, catalog
        Turns (JSONL) and items (JSONL or CSV).
    pseudo_queries
        A file that is there already, taken as it is; None has the teacher write one.
    reasoning
        The same for the chain-of-thought variant.
    teacher_rankings
        Rankings that are there already, a teacher's or the predictions of a larger pipeline.
    item_noun
        What an item is called here, where that is not what the recipe says.
    share
        Share of the dialogues that are trained on.
    """

    name: _Name
    conversations: Path
    catalog: Path
    pseudo_queries: Path | None = None
    reasoning: Path | None = None
    teacher_rankings: Path | None = None
    item_noun: str | None = None
    share: float = Field(default=1.0, gt=0, le=1)


class DomainFolders(_Section):
    """Many small data sets: each folder holds ``catalog.jsonl`` and ``turns.jsonl``.

    The turns bring their pseudo-queries themselves, in the field ``query``.

    Attributes
    ----------
    folder
        What holds the folders.
    nouns
        JSON: what an item is called, by the folder's name.
    """

    folder: Path
    nouns: Path

    def data(self) -> list[DataSet]:
        """Return a data set for each folder, in the order of their names."""
        try:
            nouns = json.loads(self.nouns.read_text(encoding="utf-8"))
            folders = sorted(path for path in self.folder.iterdir() if path.is_dir())
        except (OSError, ValueError) as error:
            raise ConfigError(f"domains: {error}") from error
        missing = [path.name for path in folders if path.name not in nouns]
        if missing or not folders:
            what = f"no noun for {missing[0]!r}" if missing else f"no folder in {self.folder}"
            raise ConfigError(f"{self.nouns}: {what}", hint='for example {"novels": "novel"}')
        return [
            DataSet(
                name=path.name,
                conversations=path / "turns.jsonl",
                catalog=path / "catalog.jsonl",
                pseudo_queries=path / "turns.jsonl",
                item_noun=nouns[path.name],
            )
            for path in folders
        ]


class TeacherChoice(_Section):
    """The teacher and how it is asked.

    Attributes
    ----------
    llm
        See `reges_index.training.teacher.open_teacher`.
    options
        Fields of `TeacherSettings`.
    filter_leaks
        Leave out queries that name a target which the dialogue does not name.
    """

    llm: str
    options: dict[str, Any] = Field(default_factory=dict)
    filter_leaks: bool = True

    @model_validator(mode="after")
    def _options_exist(self) -> TeacherChoice:
        _ = self.settings
        return self

    @property
    def settings(self) -> TeacherSettings:
        """The options, checked."""
        return _checked(TeacherSettings, self.options)


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
        Data sets; ids of turns and items have to be unique over all of them.
    domains
        More data sets, one a folder.
    encoder
        Of the catalogs, as `resolve_encoder` takes it: "embedded" (all-MiniLM-L6-v2), "dpr", "bge-large", ...
    teacher
        Needed when a data set brings no pseudo-queries (or, with ``cot``, no reasoning).
    query_expert, item_expert
        Training settings of each; None leaves out the item expert.
    decoding
        Fields of `QueryDecoding`, used for the negatives and recommended by the query expert's manifest.
    selection
        What the item expert's manifest recommends at inference, such as ``length_penalty``.
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

    name: _Name
    out: Path
    data: tuple[DataSet, ...] = ()
    domains: DomainFolders | None = None
    base: str = "embedded"
    revision: str | None = None
    encoder: str = "embedded"
    teacher: TeacherChoice | None = None
    query_expert: ExpertTraining = ExpertTraining()
    decoding: dict[str, Any] = Field(default_factory=dict)
    negatives: NegativesSettings = NegativesSettings()
    item_expert: ExpertTraining | None = ExpertTraining()
    selection: dict[str, Any] = Field(default_factory=dict)
    distill: Literal["retrieved", "free"] | None = None
    cot: bool = False
    fusion: Path | None = None
    item_noun: str = "movie"
    item_plural: str = "movies"

    @field_validator("data")
    @classmethod
    def _names_once(cls, data: tuple[DataSet, ...]) -> tuple[DataSet, ...]:
        if len({part.name for part in data}) < len(data):
            raise ValueError("two data sets have the same name")
        return data

    @model_validator(mode="after")
    def _has_data(self) -> Recipe:
        if not self.data and self.domains is None:
            raise ValueError("there is no data: give data, domains or both")
        return self

    @model_validator(mode="after")
    def _teacher_where_needed(self) -> Recipe:
        for part in self.data:
            missing = "pseudo_queries" if part.pseudo_queries is None else None
            if self.distill is not None and part.teacher_rankings is None:
                missing = missing or "teacher_rankings"
            if self.cot and self.item_expert is not None and part.reasoning is None:
                missing = missing or "reasoning"
            if missing and self.teacher is None:
                raise ValueError(f"{part.name} brings no {missing} and there is no teacher to write them")
        _ = self.query_decoding  # raises where a value cannot be
        hard = self.item_expert is not None and self.item_expert.negatives != "random"
        if hard and self.item_expert is not None and self.item_expert.num_candidates > self.negatives.top_k:
            raise ValueError(
                f"item_expert.num_candidates={self.item_expert.num_candidates} is more than "
                f"negatives.top_k={self.negatives.top_k}"
            )
        return self

    @property
    def domain(self) -> Domain:
        """What an item is called in prompts."""
        return Domain(self.item_noun, self.item_plural)

    def domain_of(self, part: DataSet) -> Domain:
        """Return what an item of a data set is called."""
        return self.domain if part.item_noun is None else Domain.parse(part.item_noun)

    @property
    def query_decoding(self) -> QueryDecoding:
        """How the query expert writes when negatives are mined."""
        return QueryDecoding.parse(self.decoding, where="recipe")


def load_recipe(path: str | Path, *, out: str | Path | None = None) -> Recipe:
    """Read a recipe; its paths are relative to its own folder.

    So are the folders of models (base, encoder, teacher) where they begin with ``.``: any other name may be
    one of the hub.

    Parameters
    ----------
    path
        A YAML file.
    out
        Goes before the recipe's own (and is relative to the working directory).

    Raises
    ------
    ConfigError
        If the file is no YAML mapping, or holds an unknown key or an impossible value.
    InputError
        If it cannot be read.
    """
    path = Path(path)
    recipe = load_yaml(path, Recipe, hint="see finetune/recipes for examples")
    folder = path.resolve().parent
    data = [
        part.model_copy(
            update={
                field: folder / getattr(part, field)
                for field in ("conversations", "catalog", "pseudo_queries", "reasoning", "teacher_rankings")
                if getattr(part, field) is not None
            }
        )
        for part in recipe.data
    ]
    if recipe.domains is not None:
        data += DomainFolders(
            folder=folder / recipe.domains.folder, nouns=folder / recipe.domains.nouns
        ).data()
    teacher = recipe.teacher
    if teacher is not None:
        teacher = teacher.model_copy(update={"llm": name_beside(folder, teacher.llm)})
    return recipe.model_copy(
        update={
            "data": tuple(data),
            "domains": None,
            "out": Path(out) if out is not None else folder / recipe.out,
            "base": name_beside(folder, recipe.base),
            "encoder": name_beside(folder, recipe.encoder),
            "teacher": teacher,
            "query_expert": _beside(folder, recipe.query_expert),
            "item_expert": None if recipe.item_expert is None else _beside(folder, recipe.item_expert),
            "fusion": folder / recipe.fusion if recipe.fusion is not None else None,
        }
    )


def _beside(folder: Path, settings: ExpertTraining) -> ExpertTraining:
    if settings.start_from is None:
        return settings
    return settings.model_copy(update={"start_from": folder / settings.start_from})
