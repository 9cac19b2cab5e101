"""The steps of a recipe: what each reads, writes and depends on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.llms.llm import LLM

from reges_index.catalog import ItemCatalog
from reges_index.catalog.encoder import encoder_identity
from reges_index.dialogue import Turn
from reges_index.errors import ModelError
from reges_index.item_expert.prompt import COT_SELECT_TMPL, DEFAULT_SELECT_TMPL, selection_prompt_hash
from reges_index.models.adapters import DataFile
from reges_index.models.local_lm import LocalLM
from reges_index.query_expert.prompt import query_prompt_hash
from reges_index.query_expert.transform import ReGeSQueryTransform
from reges_index.training.annotate import TeacherReport
from reges_index.training.config import ExpertTraining
from reges_index.training.fusion import train_by_recipe
from reges_index.training.item_expert import train_item_expert
from reges_index.training.leaks import TitleLeaks
from reges_index.training.negatives import mine_negatives
from reges_index.training.negatives_file import read_retrieved
from reges_index.training.provenance import data_file, recommend
from reges_index.training.pseudo_queries import (
    PSEUDO_QUERY_PROMPT_HASH,
    QUERY_TOKENS,
    REASONING_PROMPT_HASH,
    REASONING_TOKENS,
    read_reasoning,
    write_pseudo_queries,
    write_reasoning,
)
from reges_index.training.query_expert import train_query_expert
from reges_index.training.rankings import RANKING_TOKENS, write_rankings
from reges_index.training.recipe import DataSet, Recipe
from reges_index.training.recipe_data import RecipeData
from reges_index.training.sft import TrainResult
from reges_index.training.steps import Step, content_hash
from reges_index.training.teacher import Teacher, open_teacher

__all__ = ["RecipeSteps", "StepProgress"]

StepProgress: TypeAlias = Callable[[str, int, int], None]
"""Called with a step's name, what is done and what there is to do."""

# How long a run is and how it shares the machine do not change what the adapter learned so far; these
# settings may change without a new start of the finished steps.
_NOT_IN_KEY = {"compile", "num_threads", "save_every_minutes"}


@dataclass
class RecipeSteps:
    """The steps of a recipe.

    Parameters
    ----------
    data
        The recipe and what it reads.
    teacher, embed_model
        Go before the recipe's own teacher and encoder.
    progress
        For progress bars.
    """

    data: RecipeData
    teacher: LLM | LocalLM | None
    embed_model: BaseEmbedding | None
    progress: StepProgress | None

    @property
    def recipe(self) -> Recipe:
        """What to do."""
        return self.data.recipe

    @property
    def _mines(self) -> bool:
        expert = self.recipe.item_expert
        return expert is not None and expert.negatives != "random"

    # -- the steps -------------------------------------------------------------------------------------

    def steps(self) -> list[Callable[[], Step]]:
        """Return the steps in order; each is built when its turn comes, since it hashes earlier outputs."""
        recipe = self.recipe
        steps: list[Callable[[], Step]] = [
            (lambda part=part: self._rank(part))  # type: ignore[misc]
            for part in recipe.data
            if recipe.distill is not None and part.teacher_rankings is None
        ]
        steps += [
            (lambda part=part: self._write_queries(part))  # type: ignore[misc]
            for part in recipe.data
        ]
        steps.append(self._train_query_expert)
        for part in recipe.data if recipe.item_expert is not None else ():
            if self._mines:
                steps.append(lambda part=part: self._mine(part))  # type: ignore[misc]
            if recipe.cot:
                steps.append(lambda part=part: self._write_reasoning(part))  # type: ignore[misc]
        if recipe.item_expert is not None:
            steps.append(self._train_item_expert)
        return [*steps, self._train_fusion] if recipe.fusion is not None else steps

    def _rank(self, part: DataSet) -> Step:
        recipe, name = self.recipe, f"rankings.{part.name}"
        out, source = self.data.rankings_file(part), recipe.distill
        assert out is not None  # the step is left out without
        assert source is not None

        def run() -> Mapping[str, Any]:
            options = self._teacher_options(name)
            options.pop("filter_leaks", None)
            report = write_rankings(
                self.data.turns[part.name], self._catalog(part), self._open_teacher(RANKING_TOKENS), out,
                source=source, **options,
            )  # fmt: skip
            _refuse_failed(report)
            return report.to_dict()

        settings = {**self._teacher_key(), "from": source}
        return Step(name, run, (out,), settings, (part.conversations, part.catalog), _beside(out))

    def _catalog(self, part: DataSet) -> ItemCatalog:
        return ItemCatalog.from_items(
            self.data.items[part.name].values(),
            persist_dir=self.recipe.out / "catalog",
            name=f"items-{part.name}",
            embed_model=self.embed_model or self.recipe.encoder,
        )

    def _labels(self, part: DataSet) -> tuple[Path, ...]:
        """Return the files that the turns' targets may come from."""
        file = self.data.rankings_file(part)
        return (file,) if file is not None else ()

    def _write_queries(self, part: DataSet) -> Step:
        name = f"pseudo-queries.{part.name}"
        if part.pseudo_queries is not None:
            return Step(name, lambda: self._look_at(part), (), {"given": True}, (part.pseudo_queries,))
        out = self.data.queries_file(part)
        return self._write_notes(
            name, part, out, write_pseudo_queries, PSEUDO_QUERY_PROMPT_HASH, QUERY_TOKENS
        )

    def _write_reasoning(self, part: DataSet) -> Step:
        name = f"reasoning.{part.name}"
        if part.reasoning is not None:
            return Step(name, lambda: {"given": str(part.reasoning)}, (), {"given": True}, (part.reasoning,))
        out = self.data.reasoning_file(part)
        return self._write_notes(name, part, out, write_reasoning, REASONING_PROMPT_HASH, REASONING_TOKENS)

    def _write_notes(
        self,
        name: str,
        part: DataSet,
        out: Path,
        write: Callable[..., TeacherReport],
        prompt: str,
        answer_tokens: int,
    ) -> Step:
        def run() -> Mapping[str, Any]:
            report = write(
                self.data.labelled(part),
                self.data.items[part.name],
                self._open_teacher(answer_tokens),
                out,
                **self._teacher_options(name),
            )
            _refuse_failed(report)
            return report.to_dict()

        settings = {**self._teacher_key(), "prompt": prompt}
        inputs = (part.conversations, part.catalog, *self._labels(part))
        return Step(name, run, (out,), settings, inputs, _beside(out))

    def _look_at(self, part: DataSet) -> Mapping[str, Any]:
        turns, items = self.data.turns[part.name], self.data.items[part.name]
        queries = self.data.read_queries(part)
        leaks = TitleLeaks(items)
        leaking = [turn.id for turn in turns if turn.id in queries and leaks.find(queries[turn.id], turn)]
        return {"given": str(part.pseudo_queries), "queries": len(queries), "naming_a_target": leaking}

    def _train_query_expert(self) -> Step:
        recipe, files = self.recipe, []  # type: Recipe, list[Path]
        for part in recipe.data:
            files += [part.conversations, self.data.queries_file(part)]

        def run() -> Mapping[str, Any]:
            queries: dict[str, str] = {}
            data = []
            for part in recipe.data:
                turns = self.data.turns[part.name]
                own = self.data.read_queries(part)
                queries |= own
                data += [
                    data_file(part.conversations, len(turns)),
                    data_file(self.data.queries_file(part), len(own)),
                ]
            return _trained(
                train_query_expert(
                    self.data.all_turns,
                    queries,
                    self._base(recipe.query_expert),
                    recipe.query_expert,
                    self.data.query_dir,
                    domain=self.data.domains,
                    manifest_fields=self._manifest(data),
                    run_dir=self._checkpoints(self.data.query_dir),
                )
            )

        return Step(
            "query-expert",
            run,
            (self.data.query_dir,),
            {**self._training_key(recipe.query_expert), "prompt": query_prompt_hash()},
            tuple(files),
            (self._checkpoints(self.data.query_dir),),
            everywhere=True,
        )

    def _mine(self, part: DataSet) -> Step:
        recipe, out = self.recipe, self.data.negatives_file(part)
        name = f"negatives.{part.name}"

        def run() -> Mapping[str, Any]:
            lm = self._base(recipe.query_expert)
            lm.load_adapter("query-expert", self.data.query_dir, role="query-expert")
            expert = ReGeSQueryTransform(lm, domain=recipe.domain_of(part), decoding=recipe.query_decoding)
            return mine_negatives(
                self.data.labelled(part),
                expert,
                self._catalog(part),
                out,
                top_k=recipe.negatives.top_k,
                batch_size=recipe.negatives.batch_size,
                made_by={"adapter": content_hash(self.data.query_dir), "decoding": recipe.decoding},
                progress=self._progress(name),
            ).to_dict()

        settings = {
            "top_k": recipe.negatives.top_k, "decoding": recipe.decoding,
            "encoder": asdict(encoder_identity(self.embed_model or recipe.encoder)),
            "base": [recipe.base, recipe.revision], "dtype": recipe.query_expert.dtype,
            "item": [recipe.domain_of(part).noun, recipe.domain_of(part).plural],
        }  # fmt: skip
        inputs = (part.conversations, part.catalog, self.data.query_dir, *self._labels(part))
        return Step(name, run, (out,), settings, inputs, _beside(out))

    def _train_item_expert(self) -> Step:
        recipe, files = self.recipe, []  # type: Recipe, list[Path]
        settings = recipe.item_expert
        assert settings is not None  # the step is left out without
        for part in recipe.data:
            files += [part.conversations, part.catalog, *self._labels(part)]
            files += [self.data.negatives_file(part)] if self._mines else []
            files += [self.data.reasoning_file(part)] if recipe.cot else []

        def run() -> Mapping[str, Any]:
            hard: dict[str, list[str]] = {}
            reasoning: dict[str, str] = {}
            fitting: dict[str, list[str]] = {}
            labelled: list[Turn] = []
            data = []
            for part in recipe.data:
                turns, items = self.data.labelled(part), self.data.items[part.name]
                labelled += turns
                if settings.target_share < 1:
                    fitting |= self.data.rankings(part)
                data += [data_file(part.conversations, len(turns)), data_file(part.catalog, len(items))]
                if self._mines:
                    own = read_retrieved(
                        self.data.negatives_file(part),
                        turns=turns,
                        item_ids=items,
                        needs_targets=settings.needs_ranks,
                    )
                    hard |= own
                    data.append(data_file(self.data.negatives_file(part), len(own)))
                if recipe.cot:
                    notes = read_reasoning(self.data.reasoning_file(part), turns=turns)
                    reasoning |= notes
                    data.append(data_file(self.data.reasoning_file(part), len(notes)))
            return _trained(
                train_item_expert(
                    labelled,
                    self.data.all_items,
                    hard,
                    self._base(settings),
                    settings,
                    self.data.item_dir,
                    reasoning=reasoning if recipe.cot else None,
                    fitting=fitting,
                    domain=self.data.domains,
                    manifest_fields=self._manifest(data),
                    run_dir=self._checkpoints(self.data.item_dir),
                )
            )

        template = COT_SELECT_TMPL if recipe.cot else DEFAULT_SELECT_TMPL
        return Step(
            self.data.item_dir.name,
            run,
            (self.data.item_dir,),
            {**self._training_key(settings), "prompt": selection_prompt_hash(template)},
            tuple(files),
            (self._checkpoints(self.data.item_dir),),
            everywhere=True,
        )

    def _train_fusion(self) -> Step:
        fusion = self.data.fusion
        assert fusion is not None  # the step is left out without
        settings = {
            "fit": fusion.settings(),
            "encoder": asdict(encoder_identity(self.embed_model or fusion.encoder)),
            "data": [its.name for its in fusion.data],
        }
        return Step(
            "fusion",
            lambda: train_by_recipe(fusion, embed_model=self.embed_model).to_dict(),
            (fusion.out,),
            settings,
            tuple(path for its in fusion.data for path in (its.conversations, its.catalog)),
        )

    def recommend(self) -> None:
        """Put what the recipe says about inference into the manifests."""
        if os.environ.get("RANK", "0") != "0":
            return
        recommend(self.data.query_dir, decoding=self.recipe.decoding or None)
        if self.recipe.item_expert is not None:
            recommend(self.data.item_dir, **self.recipe.selection)

    # -- small parts -----------------------------------------------------------------------------------

    def _base(self, settings: ExpertTraining) -> LocalLM:
        """Load the base anew: an adapter is never trained on top of another one."""
        return LocalLM.from_pretrained(self.recipe.base, dtype=settings.dtype, revision=self.recipe.revision)

    def _checkpoints(self, adapter: Path) -> Path:
        return self.recipe.out / "checkpoints" / adapter.name

    def _manifest(self, data: list[DataFile]) -> dict[str, Any]:
        return {"data": data, "base_revision": self.recipe.revision}

    def _training_key(self, settings: ExpertTraining) -> dict[str, Any]:
        start = settings.start_from
        return {
            "training": {
                **settings.model_dump(mode="json", exclude=_NOT_IN_KEY),
                # Another round may have been trained into the same folder since.
                "start_from": content_hash(start) if start is not None else None,
            },
            "base": [self.recipe.base, self.recipe.revision],
            "item": sorted({domain.noun for domain in self.data.domains.values()}),
            "shares": [part.share for part in self.recipe.data],
        }

    def _open_teacher(self, answer_tokens: int) -> LLM | LocalLM:
        if self.teacher is not None:
            return self.teacher
        choice = self.recipe.teacher
        assert choice is not None  # checked when the recipe was read
        return open_teacher(choice.llm, choice.settings.for_answers_of(answer_tokens))

    def _teacher_options(self, step: str) -> dict[str, Any]:
        options: dict[str, Any] = {"domain": self.recipe.domain, "progress": self._progress(step)}
        if self.recipe.teacher is not None:
            options |= {
                "settings": self.recipe.teacher.settings,
                "filter_leaks": self.recipe.teacher.filter_leaks,
            }
        return options

    def _teacher_key(self) -> dict[str, Any]:
        choice = self.recipe.teacher
        name = Teacher(self.teacher).name if self.teacher is not None or choice is None else choice.llm
        return {
            "teacher": name,
            "filter_leaks": choice is None or choice.filter_leaks,
            "item": [self.recipe.item_noun, self.recipe.item_plural],
        }

    def _progress(self, step: str) -> Callable[[int, int], None] | None:
        progress = self.progress
        return None if progress is None else lambda done, total: progress(step, done, total)


def _beside(out: Path) -> tuple[Path, ...]:
    """Return what `annotate` and `mine_negatives` write beside their file."""
    return tuple(out.with_name(out.name + suffix) for suffix in (".run.json", ".left-out.jsonl"))


def _refuse_failed(report: TeacherReport) -> None:
    if report.failed:
        key, reason = next(iter(report.failed.items()))
        raise ModelError(
            f"the teacher left {len(report.failed)} turns without an answer; {key}: {reason}",
            hint="run the recipe again to ask for these; what was written is kept",
        )


def _trained(result: TrainResult) -> dict[str, Any]:
    losses = result.losses
    return {
        "steps": result.steps,
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "tokens_per_second": round(result.tokens_per_second, 1),
    }
