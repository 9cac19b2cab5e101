"""`reges evaluate`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from reges_index.cli.output import console, errors, print_json
from reges_index.cli.parts import AsJson, option_of, with_options
from reges_index.errors import ConfigError
from reges_index.evaluation.settings import JOBS, EvaluationSettings, named_files
from reges_index.files import read_yaml

if TYPE_CHECKING:
    from reges_index.evaluation.metrics import ProtocolName
    from reges_index.evaluation.scoring import Evaluation

_SINGULAR = {
    "predictions": "predictions",
    "experiments": "experiment",
    "rows": "rows",
    "more_encoders": "more-encoder",
}
"""Options that may be repeated, by what one of them is called."""
_SHOWN = {
    "rec_success_rate": "success",
    "recall@5": "recall@5",
    "recall@20": "recall@20",
    "recall@50": "recall@50",
    "mrr@50": "mrr@50",
}


_Options: Any = make_dataclass(
    "_Options",
    [
        (
            name,
            option_of(
                declared,
                "--" + _SINGULAR.get(name, name).replace("_", "-"),
                several=name in _SINGULAR,
                panel=None if name in JOBS["score"] else "Experiments",
            ),
            field(default=None),
        )
        for name, declared in EvaluationSettings.model_fields.items()
    ],
)


@with_options(_Options)
def evaluate(
    options: Any,
    config: Annotated[Path | None, typer.Option("--config", help="YAML with these options as keys.")] = None,
    show_errors: Annotated[
        int, typer.Option("--show-errors", min=0, help="Print N turns that the first system got wrong.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Score rankings, of any system, under both protocols, with intervals, tests and baselines.

    With --out a folder gets report.json, report.md, report.html and pictures. With --experiment the paper's
    tables and figures, or the tables over other domains, are made instead.
    """
    given = {name: value for name, value in vars(options).items() if value not in (None, [])}
    if config is not None:
        given = {**read_yaml(config), **given}
    wanted = given.get("experiments", [])
    names = [wanted] if isinstance(wanted, str) else wanted
    if not names:
        _refuse(given, JOBS["score"], "without --experiment")
        listed = given.get("predictions")
        if listed is not None and not isinstance(listed, dict):
            given["predictions"] = named_files(listed if isinstance(listed, list) else [listed])
        _score(EvaluationSettings.parse(given), show_errors=show_errors, as_json=as_json)
        return
    if show_errors:
        raise ConfigError("show_errors means nothing with --experiment", hint="leave it out")
    by_itself = (
        [name for name in names if name in ("domains", "topic_change")] if isinstance(names, list) else []
    )
    if by_itself and len(names) > 1:
        raise ConfigError(f"{by_itself[0]} runs by itself", hint="give the other experiments in another call")
    job = by_itself[0] if by_itself else "paper"
    _refuse(given, JOBS[job], f"with --experiment {by_itself[0]}" if by_itself else "with --experiment")
    settings = EvaluationSettings.parse({**given, "experiments": names})
    if by_itself:
        from reges_index.evaluation.experiments.domains import run_domains

        made = run_domains(job, settings)
        if as_json:
            print_json(made)
        else:
            _print_experiments({job: made}, str(settings.out))
    else:
        _run_experiments(settings, as_json=as_json)


def _refuse(given: Collection[str], known: Collection[str], when: str) -> None:
    """Refuse options that would have no effect."""
    stray = next((name for name in given if name not in known), None)
    if stray is not None:
        raise ConfigError(f"{stray} means nothing {when}", hint="leave it out, or see reges evaluate --help")


def _run_experiments(settings: EvaluationSettings, *, as_json: bool) -> None:
    from reges_index.evaluation.experiments.lab import build_lab
    from reges_index.evaluation.experiments.registry import choose, run_experiments

    choose(settings.experiments)  # a wrong name fails before models are loaded
    lab = build_lab(settings)
    outcome = run_experiments(lab, settings.experiments)
    for name, reason in outcome["not_run"].items():
        errors.print(f"{name} was not run: {reason}", style="yellow", markup=False)
    if as_json:
        print_json(outcome)
    else:
        _print_experiments(outcome["done"], str(lab.folder))
    for name, error in outcome["failed"].items():
        hint = f"\n  hint: {error['hint']}" if error["hint"] else ""
        errors.print(f"{name} failed: {error['message']}{hint}", style="red", markup=False)
    if outcome["failed"]:
        raise typer.Exit(next(iter(outcome["failed"].values()))["exit_code"])


def _print_experiments(done: dict[str, Any], out: str) -> None:
    for name, result in done.items():
        of_paper = any(row["paper"] is not None for row in result["rows"])
        table = Table("system", "setting", "protocol", "metric", box=None, pad_edge=False)
        table.title, table.title_justify = escape(result["title"]), "left"
        table.add_column("ours", justify="right")
        if of_paper:
            table.add_column("paper", justify="right")
        for row in result["rows"]:
            ours = "not run" if row["value"] is None else f"{row['value']:.4f}"
            paper = ["" if row["paper"] is None else f"{row['paper']:.4f}"] if of_paper else []
            cells = (escape(row[key]) for key in ("system", "setting", "protocol", "metric"))
            table.add_row(*cells, ours, *paper)
        console.print(table)
        console.print(f"{out}/{name}.md, .json", markup=False)


def _score(settings: EvaluationSettings, *, show_errors: int, as_json: bool) -> None:
    from reges_index.evaluation.baselines import BASELINES
    from reges_index.evaluation.report import plain_report, run_evaluation

    evaluation, summary = run_evaluation(settings)
    for system in evaluation.systems:
        wrong = {what.replace("_", " "): count for what, count in system.counts.items() if count}
        if wrong and system.name not in BASELINES:
            said = ", ".join(f"{count} {what}" for what, count in wrong.items())
            errors.print(f"{system.name}: {said}", style="yellow", markup=False)
    for baseline, reason in evaluation.missing_baselines.items():
        errors.print(f"baseline left out: {baseline} ({reason})", style="yellow", markup=False)
    if as_json:
        print_json(summary if summary is not None else plain_report(evaluation))
    else:
        _print_tables(evaluation)
        if settings.out:
            console.print(f"{settings.out}: report.json, report.md, report.html and pictures", markup=False)
    if show_errors:
        _print_errors(evaluation, show_errors, as_json=as_json)


def _print_tables(evaluation: Evaluation) -> None:
    for protocol, pairs in evaluation.pairs.items():
        counts = pairs.counts
        title = f"{protocol} targets: {counts['pairs']} pairs, {counts['turns_counted']} turns"
        table = Table("system", title=title, title_justify="left", box=None, pad_edge=False)
        for heading in _SHOWN.values():
            table.add_column(heading, justify="right", no_wrap=True)
        for system, scores in evaluation.estimates(protocol).items():
            cells = [scores[metric] for metric in _SHOWN]
            # The interval goes below its value, so that the table fits into 80 columns.
            texts = [f"{c.value:.3f}\n{c.low:.3f}-{c.high:.3f}" for c in cells]
            table.add_row(escape(system), *texts)
        console.print(table)


def _print_errors(evaluation: Evaluation, count: int, *, as_json: bool) -> None:
    from itertools import islice

    from reges_index.evaluation.diagnosis import lost_turns

    # With --json the report is what goes to standard output.
    to = errors if as_json else console
    system = evaluation.systems[0].name
    protocol: ProtocolName = "new" if evaluation.pairs["new"].target else "all"
    to.print(f"\nTurns that {system} got wrong ({protocol} targets)", style="bold", markup=False)
    for row in islice(lost_turns(evaluation, system, protocol), count):
        found = row["systems"][system]
        to.print(f"\n{row['id']}", style="bold", markup=False)
        for message in row["messages"]:
            speaker = "seeker" if message["role"] == "user" else "recommender"
            to.print(f"  {speaker}: {message['content']}", markup=False)
        if found["query"]:
            to.print(f"  query: {found['query']}", style="cyan", markup=False)
        to.print(f"  pick: {found['pick']}", style="red", markup=False)
        for target, rank, fate in zip(row["targets"], found["ranks"], found["fates"], strict=True):
            place = f"rank {rank}" if rank else "not in the ranking"
            to.print(f"  target: {target} ({fate.replace('_', ' ')}, {place})", style="green", markup=False)
        shown = "; ".join(candidate["title"] for candidate in found["candidates"])
        to.print(f"  candidates: {shown}", style="dim", markup=False)
