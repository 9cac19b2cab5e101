"""Options and small parts that the fine-tuning commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from reges_index.cli.output import console, errors, print_json
from reges_index.errors import ConfigError, ModelError
from reges_index.files import checked

if TYPE_CHECKING:
    from reges_index.catalog import Item
    from reges_index.dialogue import Turn
    from reges_index.models import LocalLM
    from reges_index.training.annotate import TeacherReport
    from reges_index.training.config import ExpertTraining

Conversations = Annotated[
    list[Path], typer.Option("--conversations", help="Turns, JSONL; give it again for more files.")
]
Catalogs = Annotated[
    list[str], typer.Option("--catalog", help="Items, JSONL or CSV, or demo:films; one or more.")
]
Teacher = Annotated[
    str,
    typer.Option(
        help="embedded; a folder or hub name; openai-like:MODEL@URL (key, if any, from OPENAI_LIKE_API_KEY); "
        "openai:MODEL (key from OPENAI_API_KEY)."
    ),
]
Out = Annotated[Path, typer.Option("--out", help="What to write; a file that was begun is continued.")]
OutDir = Annotated[Path, typer.Option("--out", help="The adapter's folder.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Requests at once; local models take one.")]
MaxRetries = Annotated[int, typer.Option(min=0, help="Further attempts after a passing fault.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds a request may take.")]
PriceIn = Annotated[float | None, typer.Option(min=0, help="Price of a million tokens read.")]
PriceOut = Annotated[float | None, typer.Option(min=0, help="Price of a million tokens written.")]
KeepLeaks = Annotated[
    bool, typer.Option("--keep-leaks", help="Keep texts that name a target which the dialogue does not name.")
]
Settings = Annotated[
    Path | None, typer.Option("--settings", help="YAML with fields of ExpertTraining; flags go before it.")
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Passes over the data; 1 in the paper.")]
LearningRate = Annotated[float | None, typer.Option(min=0, help="1e-4 in the paper (2B, 8B).")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Examples a forward; 2 in the paper.")]
MaxSteps = Annotated[int | None, typer.Option(min=1, help="Stop after this many optimizer steps.")]
TopK = Annotated[int, typer.Option("--top-k", min=1, help="Negatives a turn; 50 in the paper.")]
Seed = Annotated[int | None, typer.Option(help="Of weights, order and candidates.")]
NoResume = Annotated[
    bool, typer.Option("--no-resume", help="Start anew; checkpoints that are there are set aside.")
]


def read_all_turns(paths: list[Path]) -> list[Turn]:
    """Read turns of one or more files; ids have to be unique over all."""
    from reges_index.dialogue import read_turns

    turns: dict[str, Turn] = {}
    for path in paths:
        own = {turn.id: turn for turn in read_turns(path)}
        no_overlap(path, turns, own)
        turns |= own
    return list(turns.values())


def read_all_items(sources: list[str]) -> dict[str, Item]:
    """Read items of one or more files or demo catalogs, by id."""
    from reges_index.catalog import demo_catalog, read_items

    items: dict[str, Item] = {}
    for source in sources:
        found = demo_catalog(source[5:]) if source.startswith("demo:") else read_items(source)
        own = {item.id: item for item in found}
        no_overlap(Path(source), items, own)
        items |= own
    return items


def read_all_rankings(
    paths: list[Path] | None, turns: list[Turn], items: dict[str, Item]
) -> tuple[list[Turn], dict[str, list[str]]]:
    """Read files of a teacher's rankings; turns without targets have the first of theirs from then on."""
    from reges_index.training.rankings import labelled, read_rankings

    rankings: dict[str, list[str]] = {}
    for path in paths or []:
        own = read_rankings(path, turns=turns, items=list(items.values()))
        no_overlap(path, rankings, own)
        rankings |= own
    return labelled(turns, rankings), rankings


def no_overlap(path: Path, before: dict[str, Any], own: dict[str, Any]) -> None:
    """Refuse a file that repeats an id of an earlier one."""
    twice = next((key for key in own if key in before), None)
    if twice is not None:
        raise ConfigError(
            f"{path}: id {twice!r} is in another of the files too", hint="ids have to be unique"
        )


def training_settings(path: Path | None, **flags: Any) -> ExpertTraining:
    """Return the settings of a YAML file, or the paper's, with the flags that were given before them."""
    from reges_index.training.config import ExpertTraining, load_expert_training

    base = load_expert_training(path) if path is not None else ExpertTraining()
    given = {key: value for key, value in flags.items() if value is not None}
    return checked(ExpertTraining, {**base.model_dump(exclude_unset=True), **given}, where="flags")


def load_model(model: str | None, **options: Any) -> LocalLM:
    """Load a base model without adapters."""
    from reges_index.models import LocalLM

    return LocalLM.from_pretrained(model, **options)


def load_base(model: str | None, settings: ExpertTraining) -> LocalLM:
    """Load the base to train, in the number format of the settings."""
    return load_model(model, dtype=settings.dtype)


def leads() -> bool:
    """Say whether this is the first process of a distributed run, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def print_training(result: Any, as_json: bool) -> None:
    """Print what a training run gave; in a distributed run only once."""
    if not leads():
        return
    summary = {
        "adapter": str(result.adapter_dir), "steps": result.steps, "first_loss": result.losses[0],
        "last_loss": result.losses[-1], "tokens_per_second": round(result.tokens_per_second, 1),
    }  # fmt: skip
    if as_json:
        print_json(summary)
    else:
        console.print(
            f"{result.steps:,} steps, loss {result.losses[0]:.3f} -> {result.losses[-1]:.3f}, "
            f"{result.tokens_per_second:.0f} tokens/s; adapter in {result.adapter_dir}"
        )


TeacherRankings = Annotated[
    list[Path] | None,
    typer.Option(
        "--teacher-rankings",
        help="Rankings of a teacher; their first stands for the truth of turns without targets.",
    ),
]


def print_teacher(report: TeacherReport, as_json: bool, left_out: dict[str, list[str]]) -> None:
    """Print what a teacher did; turns without an answer are an error, since another run may get them."""
    if as_json:
        print_json(report.to_dict())
    else:
        cost = "" if report.cost is None else f", cost {report.cost:.4f}"
        console.print(
            f"{report.written:,} written to {report.out}, {report.already:,} were there; "
            f"{report.requests:,} requests and {report.retries:,} retries, "
            f"{report.prompt_tokens:,} tokens read, {report.new_tokens:,} written{cost}"
        )
        print_counts({**left_out, "of no use twice, left out": report.empty})
        if report.answers_cut:
            console.print(f"  {report.answers_cut:,} answers cut at their longest; see --max-new-tokens")
    if report.failed:
        name, reason = next(iter(report.failed.items()))
        raise ModelError(
            f"{len(report.failed)} turns got no answer; {name}: {reason}", hint="run the same command again"
        )


def print_counts(lists: dict[str, list[str]]) -> None:
    """Print how many ids are in each list that is not empty, and the first three."""
    for what, ids in lists.items():
        if ids:
            more = ", ..." if len(ids) > 3 else ""
            console.print(f"  {len(ids):,} {what}: {', '.join(ids[:3])}{more}", highlight=False)


@contextmanager
def progress_bars(quiet: bool) -> Iterator[Callable[[str], Callable[[int, int], None]] | None]:
    """Give a function that makes progress bars on standard error, or None."""
    if quiet or not errors.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors) as bars:

        def make(label: str) -> Callable[[int, int], None]:
            task: TaskID = bars.add_task(label, total=None)

            def update(done: int, total: int) -> None:
                bars.update(task, completed=done, total=total)

            return update

        yield make
