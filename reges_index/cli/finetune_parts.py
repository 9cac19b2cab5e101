"""Options and small parts that the fine-tuning commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from reges_index.cli.output import console, errors, print_json
from reges_index.cli.parts import AsJson, DomainNoun, Model, Quiet
from reges_index.dialogue.wording import Domain
from reges_index.files import checked

if TYPE_CHECKING:
    from reges_index.models import LocalLM
    from reges_index.training.annotate import TeacherReport
    from reges_index.training.config import ExpertTraining
    from reges_index.training.data import TrainingData
    from reges_index.training.experts import TrainResult

Conversations = Annotated[
    list[Path], typer.Option("--conversations", help="Turns, JSONL; give it again for more files.")
]
Catalogs = Annotated[
    list[Path], typer.Option("--catalog", help="Items, JSONL or CSV, or demo:films; one or more.")
]
TeacherRankings = Annotated[
    list[Path] | None,
    typer.Option(
        "--teacher-rankings",
        help="Rankings of a teacher; their first stands for the truth of turns without targets.",
    ),
]
TeacherName = Annotated[
    str,
    typer.Option(
        "--teacher",
        help="embedded; a folder or hub name; openai-like:MODEL@URL (key, if any, from OPENAI_LIKE_API_KEY); "
        "openai:MODEL (key from OPENAI_API_KEY).",
    ),
]
Out = Annotated[Path, typer.Option("--out", help="What to write; a file that was begun is continued.")]
OutDir = Annotated[
    Path,
    typer.Option("--out", help="The adapter's folder; a killed run goes on from the checkpoints beside it."),
]


@dataclass(frozen=True)
class TeacherOptions:
    """How a teacher is asked, and how it is told of."""

    concurrency: Annotated[int, typer.Option(min=1, help="Requests at once; local models take one.")] = 4
    max_retries: Annotated[int, typer.Option(min=0, help="Further attempts after a passing fault.")] = 5
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds a request may take.")] = 120.0
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Longest answer in tokens; 128 for a query, 256 for others by default."),
    ] = None
    price_in: Annotated[float | None, typer.Option(min=0, help="Price of a million tokens read.")] = None
    price_out: Annotated[float | None, typer.Option(min=0, help="Price of a million tokens written.")] = None
    domain: DomainNoun = "movie,movies"
    quiet: Quiet = False
    as_json: AsJson = False

    def ask(self, write: Callable[..., TeacherReport], *args: Any, **options: Any) -> None:
        """Let the teacher write, with a progress bar, and print what it did."""
        from reges_index.training.teacher import TeacherSettings

        values = {
            "concurrency": self.concurrency, "max_retries": self.max_retries, "timeout_s": self.timeout,
            "max_new_tokens": self.max_new_tokens, "price_in": self.price_in, "price_out": self.price_out,
        }  # fmt: skip
        settings, domain = checked(TeacherSettings, values, where="options"), Domain.parse(self.domain)
        with progress_bars(self.quiet) as bar:
            progress = bar and bar("turns")
            report = write(*args, settings=settings, domain=domain, progress=progress, **options)
        if self.as_json:
            print_json(report.to_dict())
        else:
            cost = "" if report.cost is None else f", cost {report.cost:.4f}"
            console.print(
                f"{report.written:,} written to {report.out}, {report.already:,} were there; "
                f"{report.requests:,} requests and {report.retries:,} retries, "
                f"{report.prompt_tokens:,} tokens read, {report.new_tokens:,} written{cost}"
            )
            print_left_out(report.left_out)
            if report.answers_cut:
                console.print(f"  {report.answers_cut:,} answers cut at their longest; see --max-new-tokens")
        report.require_answers()


@dataclass(frozen=True)
class TrainingOptions:
    """How an expert is trained, and how it is told of."""

    model: Model = None
    settings: Annotated[
        Path | None,
        typer.Option("--settings", help="YAML with fields of ExpertTraining; flags go before it."),
    ] = None
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data; 1 in the paper.")] = None
    learning_rate: Annotated[float | None, typer.Option(min=0, help="1e-4 in the paper (2B, 8B).")] = None
    batch_size: Annotated[int | None, typer.Option(min=1, help="Examples a forward; 2 in the paper.")] = None
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop after this many optimizer steps.")] = None
    seed: Annotated[int | None, typer.Option(help="Of weights, order and candidates.")] = None
    domain: DomainNoun = "movie,movies"
    as_json: AsJson = False

    def training(self, **more: Any) -> ExpertTraining:
        """Return the settings of the YAML file, or the paper's; flags that were given go before them."""
        from reges_index.files import load_yaml
        from reges_index.training.config import ExpertTraining

        base = load_yaml(self.settings, ExpertTraining) if self.settings is not None else ExpertTraining()
        flags = {name: getattr(self, name) for name in ("epochs", "learning_rate", "batch_size")}
        flags |= {"max_steps": self.max_steps, "seed": self.seed, **more}
        given = {key: value for key, value in flags.items() if value is not None}
        return checked(ExpertTraining, {**base.model_dump(exclude_unset=True), **given}, where="flags")

    def train(
        self,
        expert: Callable[..., TrainResult],
        data: TrainingData,
        out: Path,
        training: ExpertTraining,
        **how: Any,
    ) -> None:
        """Train an expert and print what that gave; in a distributed run only once."""
        result = expert([data], load_model(self.model, dtype=training.dtype), training, out, **how)
        if not leads():
            return
        if self.as_json:
            print_json(result.summary())
        else:
            console.print(
                f"{result.steps:,} steps, loss {result.losses[0]:.3f} -> {result.losses[-1]:.3f}, "
                f"{result.tokens_per_second:.0f} tokens/s; adapter in {result.adapter_dir}"
            )


def read_files(domain: str = "movie,movies", **files: Any) -> TrainingData:
    """Read the files of the options as one data set."""
    from reges_index.training.data import DataSet, read_data

    given = {kind: tuple(paths or ()) for kind, paths in files.items()}
    return read_data(DataSet.model_validate(given), Domain.parse(domain))


def load_model(model: str | None, **options: Any) -> LocalLM:
    """Load a base model without adapters."""
    from reges_index.models import LocalLM

    return LocalLM.from_pretrained(model, **options)


def leads() -> bool:
    """Say whether this is the first process of a distributed run, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def print_left_out(left_out: dict[str, list[str]]) -> None:
    """Print how many turns have no line for which reason, and the first three."""
    for reason, ids in left_out.items():
        more = ", ..." if len(ids) > 3 else ""
        console.print(f"  {len(ids):,} {reason}: {', '.join(ids[:3])}{more}", highlight=False)


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
