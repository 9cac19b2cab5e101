"""`run_recipe`: rankings, pseudo-queries, LLM_QR, negatives, LLM_G, a fusion: in order, each done once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.llms.llm import LLM

from reges_index.catalog import Item, ItemCatalog
from reges_index.catalog.encoder import encoder_identity
from reges_index.dialogue.render import search_text
from reges_index.dialogue.wording import Domain
from reges_index.errors import InputError
from reges_index.item_expert.prompt import COT_SELECT_TMPL, DEFAULT_SELECT_TMPL, selection_prompt_hash
from reges_index.models.local_lm import LocalLM
from reges_index.query_expert.prompt import query_prompt_hash
from reges_index.query_expert.transform import ReGeSQueryTransform
from reges_index.training.annotate import TeacherReport
from reges_index.training.config import ExpertTraining
from reges_index.training.data import DataSet, TrainingData, read_data
from reges_index.training.experts import train_item_expert, train_query_expert
from reges_index.training.fusion import FusionRecipe, read_recipe, train_by_recipe
from reges_index.training.negatives import mine_negatives
from reges_index.training.pseudo_queries import NoteKind, note_prompt_hash, write_notes
from reges_index.training.publish import recommend
from reges_index.training.rankings import write_rankings
from reges_index.training.recipe import Recipe, load_recipe
from reges_index.training.steps import Step, StepLog, StepResult, content_hash
from reges_index.training.teacher import Teacher

StepProgress: TypeAlias = Callable[[str, int, int], None]
"""Called with a step's name, what is done and what there is to do."""

# How long a run is and how it shares the machine do not change what the adapter learned so far; these
# settings may change without a new start of the finished steps.
_NOT_IN_KEY = {"compile", "num_threads", "save_every_minutes", "start_from"}


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
        The adapters' folders; None where the recipe trains none.
    fusion
        The fusion's folder; None where the recipe trains none.
    seconds
        Wall clock of this call.
    """

    name: str
    out: str
    steps: tuple[StepResult, ...]
    query_expert: str | None
    item_expert: str | None
    fusion: str | None
    seconds: float


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
    its old output is moved to ``steps/set-aside``.

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
        If data cannot be read. Found before any step runs.
    ModelError, TrainingError, StorageError
        From the steps; what was finished is kept.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, out=out)
    elif out is not None:
        recipe = recipe.model_copy(update={"out": Path(out)})
    started = time.monotonic()
    run = _Run(recipe, teacher, embed_model, progress)
    run.check()
    log = StepLog(recipe.out / "steps")
    results = tuple(log.do(step) for step in run.steps())
    if os.environ.get("RANK", "0") == "0" and recipe.query_expert is not None:
        recommend(run.query_dir, decoding=recipe.decoding or None)
    return RecipeReport(
        name=recipe.name,
        out=str(recipe.out),
        steps=results,
        query_expert=None if recipe.query_expert is None else str(run.query_dir),
        item_expert=None if recipe.item_expert is None else str(run.item_dir),
        fusion=None if recipe.fusion is None else str(recipe.out / "fusion"),
        seconds=time.monotonic() - started,
    )


@dataclass
class _Run:
    """The steps of a recipe: what each reads, writes and depends on."""

    recipe: Recipe
    teacher: LLM | LocalLM | None
    embed_model: BaseEmbedding | None
    progress: StepProgress | None

    @property
    def query_dir(self) -> Path:
        return self.recipe.out / "query-expert"

    @property
    def item_dir(self) -> Path:
        return self.recipe.out / ("item-expert-cot" if self.recipe.cot else "item-expert")

    @cached_property
    def fusion(self) -> FusionRecipe | None:
        """Recipe of the fusion, written into this run's folder; None where there shall be none."""
        if self.recipe.fusion is None:
            return None
        return read_recipe(self.recipe.fusion).model_copy(update={"out": self.recipe.out / "fusion"})

    def check(self) -> None:
        """Read everything that is there already: hours later would be a bad time to find a typo."""
        for its in self.fusion.data if self.fusion is not None else ():
            for path in its.files:
                if not path.is_file():
                    raise InputError(
                        f"{self.recipe.fusion}: {its.name}: {path} is no file",
                        hint="paths in a fusion's recipe are relative to that recipe",
                    )
        for part in self.recipe.sets:
            self._read(part)

    def _read(self, part: DataSet) -> TrainingData:
        return read_data(part, self.recipe.domain)

    def steps(self) -> Iterator[Step]:
        """Yield the steps in order; what each reads is there when its turn comes."""
        given, written = self.recipe.sets, self.recipe.written
        sets = [self._placed(part) for part in given]

        def lacking(kind: str) -> Iterator[DataSet]:
            for part, its in zip(given, sets, strict=True):
                if kind in written and not getattr(part, kind):
                    yield its

        for part in lacking("teacher_rankings"):
            yield self._rank(part)
        for part in lacking("pseudo_queries"):
            yield self._write_notes(part, "query", part.pseudo_queries)
        if self.recipe.query_expert is not None:
            own = [part.only("conversations", "pseudo_queries") for part in sets]
            yield self._train_query_expert(self.recipe.query_expert, own)
        for part in lacking("hard_negatives"):
            yield self._mine(part)
        for part in lacking("reasoning"):
            yield self._write_notes(part, "reasoning", part.reasoning)
        if self.recipe.item_expert is not None:
            more = {"hard_negatives", "reasoning"} & {*written}
            kinds = {"conversations", "catalog", "teacher_rankings", *more}
            yield self._train_item_expert(self.recipe.item_expert, [part.only(*kinds) for part in sets])
        if self.fusion is not None:
            yield self._train_fusion(self.fusion)

    def _placed(self, part: DataSet) -> DataSet:
        """Return the data set with the places of the files that it does not bring and the run writes."""
        places = {
            kind: (self.recipe.out / kind.replace("_", "-") / f"{part.name}.jsonl",)
            for kind in self.recipe.written
            if not getattr(part, kind)
        }
        return part.model_copy(update=places)

    def _rank(self, part: DataSet) -> Step:
        name, source, out = f"teacher-rankings.{part.name}", self.recipe.distill, part.teacher_rankings[0]
        assert source is not None  # there is no such step without
        part = part.only("conversations", "catalog")

        def run() -> Mapping[str, Any]:
            data = self._read(part)
            options = self._teacher_options(name, data)
            return _whole(
                write_rankings(data.turns, self._catalog(part.name, data), out=out, source=source, **options)
            )

        return Step(name, run, out, {**self._teacher_key(), "from": source}, part.files)

    def _write_notes(self, part: DataSet, kind: NoteKind, out: Sequence[Path]) -> Step:
        name = f"{out[0].parent.name}.{part.name}"
        filter_leaks = self.recipe.teacher is None or self.recipe.teacher.filter_leaks
        part = part.only("conversations", "catalog", "teacher_rankings")

        def run() -> Mapping[str, Any]:
            data = self._read(part)
            options = self._teacher_options(name, data)
            return _whole(
                write_notes(
                    data.labelled, data.items, out=out[0], kind=kind, filter_leaks=filter_leaks, **options
                )
            )

        settings = {**self._teacher_key(), "filter_leaks": filter_leaks, "prompt": note_prompt_hash(kind)}
        return Step(name, run, out[0], settings, part.files)

    def _train_query_expert(self, training: ExpertTraining, sets: Sequence[DataSet]) -> Step:
        out = self.query_dir

        def run() -> Mapping[str, Any]:
            data, base = [self._read(part) for part in sets], self._base(training)
            return train_query_expert(data, base, training, out, base_revision=self.recipe.revision).summary()

        settings = {**self._training_key(training, sets), "prompt": query_prompt_hash()}
        return Step("query-expert", run, out, settings, _files(sets), everywhere=True)

    def _mine(self, part: DataSet) -> Step:
        recipe, training, out = self.recipe, self.recipe.query_expert, part.hard_negatives[0]
        name = f"hard-negatives.{part.name}"
        part = part.only("conversations", "catalog", "teacher_rankings")

        def run() -> Mapping[str, Any]:
            data = self._read(part)
            report = mine_negatives(
                data.labelled,
                self._searched(data),
                self._catalog(part.name, data),
                out,
                top_k=recipe.negatives.top_k,
                batch_size=recipe.negatives.batch_size,
                made_by={"adapter": None if training is None else content_hash(self.query_dir)},
                progress=self._progress(name),
            )
            return asdict(report)

        domain = self._domain(part)
        settings = {
            "top_k": recipe.negatives.top_k, "decoding": recipe.decoding,
            "encoder": asdict(encoder_identity(self.embed_model or recipe.encoder)),
            "base": [recipe.base, recipe.revision], "dtype": None if training is None else training.dtype,
            "item": [domain.noun, domain.plural],
        }  # fmt: skip
        read = part.files if training is None else (*part.files, self.query_dir)
        return Step(name, run, out, settings, read)

    def _searched(self, data: TrainingData) -> ReGeSQueryTransform | dict[str, str]:
        """Return what negatives are searched with: the query expert, or each turn's dialogue."""
        if self.recipe.query_expert is None:
            return {turn.id: search_text(turn.chat) for turn in data.labelled}
        lm = self._base(self.recipe.query_expert)
        lm.load_adapter("query-expert", self.query_dir, role="query-expert")
        return ReGeSQueryTransform(lm, domain=data.domain, decoding=self.recipe.query_decoding)

    def _train_item_expert(self, training: ExpertTraining, sets: Sequence[DataSet]) -> Step:
        cot, out = self.recipe.cot, self.item_dir

        def run() -> Mapping[str, Any]:
            data, base = [self._read(part) for part in sets], self._base(training)
            revision = self.recipe.revision
            return train_item_expert(data, base, training, out, cot=cot, base_revision=revision).summary()

        template = COT_SELECT_TMPL if cot else DEFAULT_SELECT_TMPL
        settings = {**self._training_key(training, sets), "prompt": selection_prompt_hash(template)}
        return Step(out.name, run, out, settings, _files(sets), everywhere=True)

    def _train_fusion(self, fusion: FusionRecipe) -> Step:
        settings = {
            "fit": fusion.settings(),
            "encoder": asdict(encoder_identity(self.embed_model or fusion.encoder)),
            "data": [its.name for its in fusion.data],
        }
        files = tuple(path for its in fusion.data for path in its.files)

        def run() -> Mapping[str, Any]:
            return train_by_recipe(fusion, embed_model=self.embed_model)

        return Step("fusion", run, fusion.out, settings, files)

    # -- small parts -----------------------------------------------------------------------------------

    def _base(self, training: ExpertTraining) -> LocalLM:
        """Load the base anew: an adapter is never trained on top of another one."""
        return LocalLM.from_pretrained(self.recipe.base, dtype=training.dtype, revision=self.recipe.revision)

    def _catalog(self, name: str, data: TrainingData) -> ItemCatalog:
        items: Sequence[Item] = list(data.items.values())
        encoder = self.embed_model or self.recipe.encoder
        place = self.recipe.out / "catalog"
        return ItemCatalog.from_items(items, persist_dir=place, name=f"items-{name}", embed_model=encoder)

    def _domain(self, part: DataSet) -> Domain:
        return self.recipe.domain if part.item_noun is None else Domain.parse(part.item_noun)

    def _training_key(self, training: ExpertTraining, sets: Sequence[DataSet]) -> dict[str, Any]:
        start = training.start_from
        return {
            "training": training.model_dump(mode="json", exclude=_NOT_IN_KEY),
            # Another round may have been trained into the same folder since.
            "start_from": content_hash(start) if start is not None else None,
            "base": [self.recipe.base, self.recipe.revision],
            "sets": [[self._domain(part).noun, part.share] for part in sets],
        }

    def _teacher_key(self) -> dict[str, Any]:
        choice = self.recipe.teacher
        name = Teacher(self.teacher).name if self.teacher is not None or choice is None else choice.llm
        return {"teacher": name, "item": [self.recipe.item_noun, self.recipe.item_plural]}

    def _teacher_options(self, step: str, data: TrainingData) -> dict[str, Any]:
        choice = self.recipe.teacher
        return {
            "teacher": self.teacher or (choice.llm if choice is not None else None),
            "settings": choice.options if choice is not None else None,
            "domain": data.domain,
            "progress": self._progress(step),
        }

    def _progress(self, step: str) -> Callable[[int, int], None] | None:
        progress = self.progress
        return None if progress is None else lambda done, total: progress(step, done, total)


def _files(sets: Sequence[DataSet]) -> tuple[Path, ...]:
    return tuple(path for part in sets for path in part.files)


def _whole(report: TeacherReport) -> Mapping[str, Any]:
    report.require_answers()
    return asdict(report)
