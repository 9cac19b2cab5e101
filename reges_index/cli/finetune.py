"""`reges finetune`: pseudo-queries, LLM_QR, hard negatives, LLM_G, R, the fusion, and whole runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from reges_index.cli.output import console, errors, print_json, say
from reges_index.cli.parts import AsJson, DomainNoun, Encoder, Model, Quiet, with_options
from reges_index.dialogue.wording import Domain
from reges_index.errors import ConfigError
from reges_index.files import checked

if TYPE_CHECKING:
    from reges_index.models import LocalLM
    from reges_index.training.annotate import TeacherReport
    from reges_index.training.config import ExpertTraining
    from reges_index.training.data import TrainingData
    from reges_index.training.experts import TrainResult

finetune_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Train both experts. Each step can be killed and run again; `run` does all of them from a recipe.",
)


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
        with _progress_bars(self.quiet) as bar:
            progress = bar and bar("turns")
            report = write(*args, settings=settings, domain=domain, progress=progress, **options)
        if self.as_json:
            print_json(asdict(report))
        else:
            cost = "" if report.cost is None else f", cost {report.cost:.4f}"
            console.print(
                f"{report.written:,} written to {report.out}, {report.already:,} were there; "
                f"{report.requests:,} requests and {report.retries:,} retries, "
                f"{report.prompt_tokens:,} tokens read, {report.new_tokens:,} written{cost}"
            )
            _print_left_out(report.left_out)
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
        result = expert([data], _load_model(self.model, dtype=training.dtype), training, out, **how)
        if not _leads():
            return
        if self.as_json:
            print_json(result.summary())
        else:
            console.print(
                f"{result.steps:,} steps, loss {result.losses[0]:.3f} -> {result.losses[-1]:.3f}, "
                f"{result.tokens_per_second:.0f} tokens/s; adapter in {result.adapter_dir}"
            )


def _read_files(domain: str = "movie,movies", **files: Any) -> TrainingData:
    """Read the files of the options as one data set."""
    from reges_index.training.data import DataSet, read_data

    given = {kind: tuple(paths or ()) for kind, paths in files.items()}
    return read_data(DataSet.model_validate(given), Domain.parse(domain))


def _load_model(model: str | None, **options: Any) -> LocalLM:
    """Load a base model without adapters."""
    from reges_index.models import LocalLM

    return LocalLM.from_pretrained(model, **options)


def _leads() -> bool:
    """Say whether this is the first process of a distributed run, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def _print_left_out(left_out: dict[str, list[str]]) -> None:
    """Print how many turns have no line for which reason, and the first three."""
    for reason, ids in left_out.items():
        more = ", ..." if len(ids) > 3 else ""
        console.print(f"  {len(ids):,} {reason}: {', '.join(ids[:3])}{more}", highlight=False)


@contextmanager
def _progress_bars(quiet: bool) -> Iterator[Callable[[str], Callable[[int, int], None]] | None]:
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


# -- commands ---------------------------------------------------------------------------------------


@finetune_app.command("pseudo-queries")
@with_options(TeacherOptions)
def pseudo_queries(
    options: TeacherOptions,
    conversations: Conversations,
    catalog: Catalogs,
    teacher: TeacherName,
    out: Out,
    keep_leaks: Annotated[
        bool,
        typer.Option("--keep-leaks", help="Keep texts that name a target which the dialogue does not name."),
    ] = False,
    reasoning: Annotated[
        bool,
        typer.Option("--reasoning", help="Write reasoning for the chain-of-thought item expert instead."),
    ] = False,
    teacher_rankings: TeacherRankings = None,
) -> None:
    """Let a teacher write each turn's search query, with the true items in sight (section 2.3)."""
    from reges_index.training.pseudo_queries import write_notes

    data = _read_files(conversations=conversations, catalog=catalog, teacher_rankings=teacher_rankings)
    kind = "reasoning" if reasoning else "query"
    turns, items, leaks = data.labelled, data.items, not keep_leaks
    options.ask(write_notes, turns, items, teacher, out, kind=kind, filter_leaks=leaks)


@finetune_app.command("teacher-rankings")
@with_options(TeacherOptions)
def teacher_rankings(
    options: TeacherOptions,
    conversations: Conversations,
    catalog: Catalogs,
    teacher: TeacherName,
    out: Out,
    source: Annotated[
        Literal["retrieved", "free"],
        typer.Option(
            "--from",
            help="retrieved: rank what the catalog's encoder finds; free: name items, which are then linked.",
        ),
    ] = "retrieved",
    candidates: Annotated[int, typer.Option(min=2, help="Candidates of a turn, with --from retrieved.")] = 20,
    count: Annotated[int, typer.Option(min=1, help="Most items of a ranking.")] = 8,
    encoder: Encoder = None,
) -> None:
    """Let a teacher rank items for each dialogue; no recommendation has to be known to be right."""
    from reges_index.catalog import ItemCatalog
    from reges_index.training.rankings import write_rankings

    data = _read_files(conversations=conversations, catalog=catalog)
    items = ItemCatalog.from_items(data.items.values(), embed_model=encoder, show_progress=not options.quiet)
    options.ask(
        write_rankings, data.turns, items, teacher, out, source=source, candidates=candidates, count=count
    )


@finetune_app.command("query-expert")
@with_options(TrainingOptions)
def query_expert(
    options: TrainingOptions,
    conversations: Conversations,
    pseudo_queries: Annotated[
        list[Path],
        typer.Option("--pseudo-queries", help="Queries, JSONL with id and query; one or more files."),
    ],
    out: OutDir,
) -> None:
    """Train LLM_QR: the dialogue in, the pseudo-query out (section 2.3)."""
    from reges_index.training.experts import train_query_expert

    data = _read_files(options.domain, conversations=conversations, pseudo_queries=pseudo_queries)
    options.train(train_query_expert, data, out, options.training())


@finetune_app.command("negatives")
def negatives(
    conversations: Conversations,
    catalog: Catalogs,
    out: Out,
    query_expert: Annotated[
        Path | None, typer.Option("--query-expert", help="Folder of the trained query expert.")
    ] = None,
    queries: Annotated[
        Path | None, typer.Option("--queries", help="Or queries that are there: JSONL with id and query.")
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Negatives a turn; 50 in the paper.")] = 50,
    context_messages: Annotated[
        int,
        typer.Option(
            "--context-messages",
            min=0,
            help="With --queries: search with the newest messages too, as a query expert may recommend.",
        ),
    ] = 0,
    model: Model = None,
    encoder: Encoder = None,
    store: Annotated[
        Path | None,
        typer.Option("--store", help="Folder that keeps the catalog's vectors for the next time."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Turns decoded together.")] = 16,
    teacher_rankings: TeacherRankings = None,
    domain: DomainNoun = "movie,movies",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Retrieve each turn's nearest items with the query expert's query (section 2.4)."""
    from reges_index.catalog import ItemCatalog
    from reges_index.query_expert.transform import ReGeSQueryTransform
    from reges_index.training.negatives import mine_negatives
    from reges_index.training.steps import content_hash

    if (query_expert is None) == (queries is None):
        raise ConfigError("give either --query-expert or --queries", hint="an adapter's folder, or a file")
    data = _read_files(
        domain, conversations=conversations, catalog=catalog, teacher_rankings=teacher_rankings,
        pseudo_queries=[queries] if queries is not None else None,
    )  # fmt: skip
    source: Any = data.queries
    if query_expert is not None:
        lm = _load_model(model)
        lm.load_adapter("query-expert", query_expert, role="query-expert")
        source = ReGeSQueryTransform(lm, domain=data.domain)
    items = ItemCatalog.from_items(
        data.items.values(), persist_dir=store, embed_model=encoder, show_progress=not quiet
    )
    with _progress_bars(quiet) as bar:
        report = mine_negatives(
            data.labelled, source, items, out, top_k=top_k, context_messages=context_messages,
            batch_size=batch_size, made_by={"source": content_hash(query_expert or queries or Path())},
            progress=bar and bar("turns"),
        )  # fmt: skip
    if as_json:
        print_json(asdict(report))
        return
    console.print(
        f"{report.written:,} turns written to {out}, {report.already:,} were there; in "
        f"{report.turns_with_target_found:,} of them a target was among the first {top_k} hits"
    )
    _print_left_out(report.left_out)


@finetune_app.command("item-expert")
@with_options(TrainingOptions)
def item_expert(
    options: TrainingOptions,
    conversations: Conversations,
    catalog: Catalogs,
    out: OutDir,
    hard_negatives: Annotated[
        list[Path] | None,
        typer.Option("--hard-negatives", help="Files from `reges finetune negatives` or `reges predict`."),
    ] = None,
    negatives: Annotated[
        str | None, typer.Option("--negatives", help="hard (the paper's), random or mixed.")
    ] = None,
    candidates: Annotated[
        int | None, typer.Option("--k", min=1, help="Wrong candidates beside the true one.")
    ] = None,
    reasoning: Annotated[
        list[Path] | None,
        typer.Option("--reasoning", help="Reasoning files: train the chain-of-thought variant."),
    ] = None,
    teacher_rankings: TeacherRankings = None,
) -> None:
    """Train LLM_G: dialogue and shuffled candidates in, the true item's title out (section 2.4)."""
    from reges_index.training.experts import train_item_expert

    training = options.training(negatives=negatives, num_candidates=candidates)
    if training.negatives != "random" and not hard_negatives:
        raise ConfigError(
            f"--negatives {training.negatives} needs --hard-negatives FILE",
            hint="write it with `reges finetune negatives`, or use --negatives random",
        )
    data = _read_files(
        options.domain, conversations=conversations, catalog=catalog, hard_negatives=hard_negatives,
        reasoning=reasoning, teacher_rankings=teacher_rankings,
    )  # fmt: skip
    options.train(train_item_expert, data, out, training, cot=bool(reasoning))


@finetune_app.command("encoder")
def encoder(
    recipe: Annotated[
        Path, typer.Argument(help="YAML of an encoder's training; see finetune/recipes/encoder.yaml.")
    ],
    as_json: AsJson = False,
) -> None:
    """Train R, the encoder of dialogues and items, or its query side alone; a killed run goes on."""
    from reges_index.training.encoder import train_encoder
    from reges_index.training.encoder_data import read_encoder_recipe

    report = train_encoder(read_encoder_recipe(recipe))
    if as_json:
        print_json(report)
    else:
        say(f"{report['steps']} steps in {report['seconds']} seconds; adapter in {report['out']}/adapter")


@finetune_app.command("fusion")
def fusion(
    recipe: Annotated[Path, typer.Argument(help="YAML of a fusion; see finetune/recipes/fusion.yaml.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the model; the recipe's own by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fit a fusion: statistics of the train dialogues, and what each feature weighs."""
    from reges_index.training.fusion import read_recipe, train_by_recipe

    report = train_by_recipe(read_recipe(recipe), out=out)
    if as_json:
        print_json(report)
        return
    for protocol, sets in report["cross_validation"].items():
        for name, scores in sets.items():
            pairs = scores.pop("pairs")
            recall = ", ".join(
                f"{k} {'-' if value is None else f'{value:.3f}'}" for k, value in scores.items()
            )
            say(f"{name}, {protocol}: {recall} ({pairs} pairs)")
    say(f"model in {report['out']}")


@finetune_app.command("run")
def run(
    recipe: Annotated[Path, typer.Argument(help="YAML; see finetune/recipes.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the run; the recipe's own by default.")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run all steps of a recipe; what is done is skipped, what was killed goes on."""
    from reges_index.training.pipeline import run_recipe

    with _progress_bars(quiet) as bar:
        bars: dict[str, Callable[[int, int], None]] = {}

        def progress(step: str, done: int, total: int) -> None:
            if bar is None:
                return
            if step not in bars:
                bars[step] = bar(step)
            bars[step](done, total)

        report = run_recipe(recipe, out=out, progress=progress)
    if not _leads():
        return
    if as_json:
        print_json(asdict(report))
        return
    for step in report.steps:
        console.print(f"{step.name}: {step.state}, {step.seconds:.1f} s  {step.output}", highlight=False)


@finetune_app.command("calibrate")
def calibrate(
    predictions: Annotated[Path, typer.Argument(help="JSON Lines of `reges predict`, with an LLM.")],
    conversations: Conversations,
    as_json: AsJson = False,
) -> None:
    """Fit prior_weight on dialogues of your own: how far the LLM is trusted beside the retriever."""
    from reges_index.evaluation.calibration import cases_of, fit_prior_weight
    from reges_index.evaluation.predictions import read_predictions

    turns = _read_files(conversations=conversations).turns
    cases, used = cases_of(read_predictions(predictions), turns)
    found = fit_prior_weight(cases, used)
    if as_json:
        error = {"error_before": found.before.error, "error_after": found.after.error}
        print_json({"prior_weight": found.weight, "used_before": used, "turns": len(cases), **error})
        return
    console.print(
        f"prior_weight: {found.weight:.2f} (the predictions were made with {used:g}); calibration error of "
        f"the first item {found.before.error:.3f} before, {found.after.error:.3f} after, cross-fitted on "
        f"{len(cases)} turns",
        highlight=False,
    )


@finetune_app.command("publish")
def publish(
    adapter: Annotated[Path, typer.Argument(help="An adapter's folder.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to write; may be the adapter's own.")],
    results: Annotated[
        list[Path] | None,
        typer.Option("--results", help="JSON of `reges evaluate --experiment` with this adapter; or more."),
    ] = None,
    fp32: Annotated[bool, typer.Option("--fp32", help="Keep fp32 weights instead of bf16.")] = False,
) -> None:
    """Make an adapter ready to ship: half the size, dev results in its manifest and model card."""
    from reges_index.training.publish import publish_adapter

    made = publish_adapter(adapter, out, dtype="float32" if fp32 else "bfloat16", results=results or ())
    console.print(f"{made.name} written to {out}, with the results of {len(results or ())} experiments")


@finetune_app.command("card")
def card(
    adapter: Annotated[Path, typer.Argument(help="An adapter's folder.")],
    as_json: AsJson = False,
) -> None:
    """Print an adapter's model card, made from its manifest."""
    from reges_index.models.adapters import model_card, needs_manifest

    manifest = needs_manifest(adapter)
    if as_json:
        print_json(manifest.model_dump(mode="json"))
    else:
        typer.echo(model_card(manifest))
