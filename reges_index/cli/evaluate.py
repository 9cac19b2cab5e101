"""`reges evaluate`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from reges_index.cli.data import data_app
from reges_index.cli.output import console, errors, print_json
from reges_index.cli.parts import AsJson
from reges_index.errors import ConfigError

if TYPE_CHECKING:
    from reges_index.evaluation.protocol import ProtocolName
    from reges_index.evaluation.scoring import Evaluation

__all__ = ["data_app", "evaluate"]

_PAPER = "The paper's experiments"
_SHOWN = {
    "rec_success_rate": "success",
    "recall@5": "recall@5",
    "recall@20": "recall@20",
    "recall@50": "recall@50",
    "mrr@50": "mrr@50",
}


def evaluate(
    predictions: Annotated[
        list[str] | None,
        typer.Option("--predictions", metavar="[NAME=]FILE", help="Predictions to score; may be repeated."),
    ] = None,
    conversations: Annotated[str | None, typer.Option("--conversations", help="JSONL of turns.")] = None,
    catalog: Annotated[str | None, typer.Option("--catalog", help="Items: JSONL, CSV or TSV.")] = None,
    train: Annotated[
        str | None, typer.Option("--train", help="JSONL of train turns, for popularity.")
    ] = None,
    out: Annotated[str | None, typer.Option("--out", help="Folder of the report.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML with these options as keys.")] = None,
    store: Annotated[
        str | None, typer.Option("--store", help="Catalog store, for the baseline 'retriever'.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the catalog within the store.")] = None,
    encoder: Annotated[str | None, typer.Option("--encoder", help="The store's embedding model.")] = None,
    resamples: Annotated[int | None, typer.Option("--resamples", help="Bootstrap samples; 10,000.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of intervals and tests; 0.")] = None,
    level: Annotated[float | None, typer.Option("--level", help="Of the intervals; 0.95.")] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", help="Length of the candidate list in the diagnosis; 50.")
    ] = None,
    show_errors: Annotated[
        int, typer.Option("--show-errors", min=0, help="Print N turns that the first system got wrong.")
    ] = 0,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option("--compare", metavar="REPORT REPORT", help="Test two finished reports on each other."),
    ] = None,
    experiment: Annotated[
        list[str] | None,
        typer.Option(
            "--experiment",
            help="table1 to table4, figure5 to figure9, ablation, or all; may be repeated. By themselves: "
            "domains, topic_change.",
            rich_help_panel=_PAPER,
        ),
    ] = None,
    domains: Annotated[
        str | None,
        typer.Option(
            "--domains", help="Folder of domains, for --experiment domains.", rich_help_panel=_PAPER
        ),
    ] = None,
    rows: Annotated[
        list[str] | None,
        typer.Option(
            "--rows",
            help="Of domains: stock, query-expert, drop-in, embedded, own-llm; may be repeated; all.",
            rich_help_panel=_PAPER,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="LLM; embedded by default.", rich_help_panel=_PAPER)
    ] = None,
    query_adapter: Annotated[
        str | None, typer.Option("--query-adapter", help="Folder, or none.", rich_help_panel=_PAPER)
    ] = None,
    item_adapter: Annotated[
        str | None, typer.Option("--item-adapter", help="Folder, or none.", rich_help_panel=_PAPER)
    ] = None,
    random_adapter: Annotated[
        str | None,
        typer.Option(
            "--random-adapter", help="Trained with random negatives, for figure6.", rich_help_panel=_PAPER
        ),
    ] = None,
    cot_adapter: Annotated[
        str | None,
        typer.Option("--cot-adapter", help="Chain of thought, for figure9.", rich_help_panel=_PAPER),
    ] = None,
    more_encoders: Annotated[
        list[str] | None,
        typer.Option("--more-encoder", help="For figure5 and figure7.", rich_help_panel=_PAPER),
    ] = None,
    references: Annotated[
        str | None,
        typer.Option("--references", help="JSONL of id and query, for table2.", rich_help_panel=_PAPER),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="inspired or redial: whose values to show.", rich_help_panel=_PAPER),
    ] = None,
    candidates: Annotated[
        int | None, typer.Option("--candidates", min=1, help="k; 50.", rich_help_panel=_PAPER)
    ] = None,
    candidate_counts: Annotated[
        list[int] | None,
        typer.Option(
            "--candidate-count", min=1, help="A k of table4; may be repeated; 10, 50.", rich_help_panel=_PAPER
        ),
    ] = None,
    fusion: Annotated[
        str | None,
        typer.Option("--fusion", help="Folder, or none; the shipped one.", rich_help_panel=_PAPER),
    ] = None,
    max_candidate_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-candidate-tokens",
            min=1,
            help="Of a candidate's details in the item expert's prompt.",
            rich_help_panel=_PAPER,
        ),
    ] = None,
    max_history_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-history-tokens",
            min=1,
            help="Of the dialogue in the item expert's prompt.",
            rich_help_panel=_PAPER,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first N turns.", rich_help_panel=_PAPER)
    ] = None,
    train_sample: Annotated[
        int | None,
        typer.Option("--train-sample", min=2, help="Train turns for figure8; 200.", rich_help_panel=_PAPER),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Dialogues at once.", rich_help_panel=_PAPER)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score rankings, of any system, under both protocols, with intervals, tests and baselines.

    With --out a folder gets report.json, report.md, report.html and pictures. With --experiment the paper's
    tables and figures are made instead.
    """
    shared = {
        "conversations": conversations, "catalog": catalog, "train": train, "out": out, "store": store,
        "name": name, "encoder": encoder, "resamples": resamples, "seed": seed, "level": level,
    }  # fmt: skip
    of_paper = {
        "experiments": experiment or None, "model": model, "query_adapter": query_adapter,
        "item_adapter": item_adapter, "random_adapter": random_adapter, "cot_adapter": cot_adapter,
        "more_encoders": more_encoders or None, "references": references, "dataset": dataset,
        "candidates": candidates, "candidate_counts": candidate_counts or None, "fusion": fusion,
        "max_candidate_tokens": max_candidate_tokens,
        "max_history_tokens": max_history_tokens, "limit": limit, "batch_size": batch_size,
        "train_sample": train_sample, "domains": domains, "rows": rows or None,
    }  # fmt: skip
    of_scoring = {"predictions": predictions or None, "top_k": top_k}
    options: dict[str, Any] = {**shared, **of_paper, **of_scoring}
    given = {name: value for name, value in options.items() if value is not None}
    alone = {"config": config, "show_errors": show_errors or None}  # these stand in no YAML file
    alone = {name: value for name, value in alone.items() if value is not None}
    if compare is not None:
        names: tuple[str, ...] = ("resamples", "seed", "level")
        of_tests = {name: given.pop(name) for name in names if name in given}
        _refuse({**given, **alone}, (*options, *alone), "with --compare, which reads finished reports")
        _compare(compare, of_tests, as_json=as_json)
        return
    if config is not None:
        from reges_index.evaluation.config_file import read_options

        given = read_options(config, options, given)
    wanted = given.pop("experiments", None)
    if wanted:
        _refuse({**given, **alone}, (*of_scoring, "show_errors"), "with --experiment")
        _run_experiments(wanted if isinstance(wanted, list) else [wanted], given, as_json=as_json)
    else:
        _refuse(given, of_paper, "without --experiment")
        _score(given, show_errors=show_errors, as_json=as_json)


def _refuse(given: Collection[str], names: Iterable[str], when: str) -> None:
    """Refuse options that would have no effect."""
    stray = next((name for name in names if name in given), None)
    if stray is not None:
        raise ConfigError(f"{stray} means nothing {when}", hint="leave it out, or see reges evaluate --help")


def _run_domains(name: str, given: dict[str, Any], *, as_json: bool) -> None:
    """Run an experiment over catalogs of many kinds, in the place of one with its conversations."""
    from reges_index.evaluation.domains import read_domains, read_topic_changes
    from reges_index.evaluation.experiments.domains import DomainLab, domains_table, topic_change
    from reges_index.evaluation.experiments.result import write_result
    from reges_index.pipeline.llm import open_llm

    needed = ("domains", "out") if name == "domains" else ("out",)
    known = (*needed, "rows", "encoder", "more_encoders", "model", "batch_size", "resamples", "seed", "level",
             *(("limit",) if name == "domains" else ()))  # fmt: skip
    _refuse(given, [key for key in given if key not in known], f"with --experiment {name}")
    for key in needed:
        if not given.get(key):
            raise ConfigError(f"{key} is missing", hint=f"give --{key}")
    shared = {key: given[key] for key in ("batch_size", "resamples", "seed", "level") if key in given}
    model, rows = given.get("model"), given.get("rows")
    encoders = {"stock retriever": given.get("encoder")} | {n: n for n in given.get("more_encoders", ())}
    changes, old = read_topic_changes() if name == "topic_change" else ([], {})
    lab = DomainLab(
        domains=changes or read_domains(given["domains"], limit=given.get("limit")),
        folder=Path(given["out"]),
        encoders=encoders,
        llm=open_llm(model) if model else None,
        llm_name=model or "LLM",
        prefix=name,
        **shared,
    )
    result = topic_change(lab, old, rows) if changes else domains_table(lab, rows)[0]
    made = write_result(result, lab.folder, lab.about())
    if as_json:
        print_json(made)
    else:
        _print_experiments({name: made}, given["out"])


def _run_experiments(names: list[str], given: dict[str, Any], *, as_json: bool) -> None:
    alone = [name for name in names if name in ("domains", "topic_change")]
    if alone:
        if len(names) > 1:
            raise ConfigError(f"{alone[0]} runs by itself", hint="give the other experiments in another call")
        _run_domains(alone[0], given, as_json=as_json)
        return
    for name in ("conversations", "catalog", "out"):
        if not given.get(name):
            raise ConfigError(f"{name} is missing", hint=f"give --{name}, or {name}: in the YAML file")
    from reges_index.evaluation.experiments.registry import choose, run_experiments
    from reges_index.evaluation.experiments.setup import ExperimentConfig, build_lab

    choose(names)  # a wrong name fails before models are loaded
    settings = ExperimentConfig(**given)
    outcome = run_experiments(build_lab(settings), names)
    for name, reason in outcome["not_run"].items():
        errors.print(f"{name} was not run: {reason}", style="yellow", markup=False)
    if as_json:
        print_json(outcome)
    else:
        _print_experiments(outcome["done"], settings.out)
    for name, error in outcome["failed"].items():
        hint = f"\n  hint: {error['hint']}" if error["hint"] else ""
        errors.print(f"{name} failed: {error['message']}{hint}", style="red", markup=False)
    if outcome["failed"]:
        raise typer.Exit(next(iter(outcome["failed"].values()))["exit_code"])


def _print_experiments(done: dict[str, Any], out: str) -> None:
    for name, result in done.items():
        table = Table("system", "setting", "protocol", "metric", box=None, pad_edge=False)
        table.title, table.title_justify = escape(result["title"]), "left"
        table.add_column("ours", justify="right")
        table.add_column("paper", justify="right")
        for row in result["rows"]:
            ours = "not run" if row["value"] is None else f"{row['value']:.4f}"
            paper = "" if row["paper"] is None else f"{row['paper']:.4f}"
            cells = (escape(row[key]) for key in ("system", "setting", "protocol", "metric"))
            table.add_row(*cells, ours, paper)
        console.print(table)
        console.print(f"{out}/{name}.md, .json, .png\n", markup=False)


def _score(given: dict[str, Any], *, show_errors: int, as_json: bool) -> None:
    from reges_index.evaluation.run import EvaluationConfig, named_files, run_evaluation
    from reges_index.evaluation.summary import summarize

    listed = given.get("predictions")
    if listed is not None and not isinstance(listed, dict):
        given = {**given, "predictions": named_files(listed if isinstance(listed, list) else [listed])}
    settings = EvaluationConfig(**given)
    evaluation, summary = run_evaluation(settings)
    for system in evaluation.systems:
        wrong = {what.replace("_", " "): count for what, count in system.counts.items() if count}
        if wrong and system.name not in evaluation.baselines:
            said = ", ".join(f"{count} {what}" for what, count in wrong.items())
            errors.print(f"{system.name}: {said}", style="yellow", markup=False)
    for baseline, reason in evaluation.missing_baselines.items():
        errors.print(f"baseline left out: {baseline} ({reason})", style="yellow", markup=False)
    if as_json:
        print_json(summary if summary is not None else summarize(evaluation))
    else:
        _print_tables(evaluation)
        if settings.out:
            console.print(f"{settings.out}: report.json, report.md, report.html and pictures", markup=False)
    if show_errors:
        _print_errors(evaluation, show_errors, as_json=as_json)


def _print_tables(evaluation: Evaluation) -> None:
    for protocol, pairs in evaluation.pairs.items():
        counts = pairs.counts
        title = f"{protocol} targets: {counts.pairs} pairs, {counts.turns_counted} turns"
        table = Table("system", title=title, title_justify="left", box=None, pad_edge=False)
        for heading in _SHOWN.values():
            table.add_column(heading, justify="right", no_wrap=True)
        for system, scores in evaluation.estimates(protocol).items():
            cells = [scores[metric] for metric in _SHOWN]
            # The interval goes below its value, so that the table fits into 80 columns.
            texts = [f"{c.value:.3f}\n{c.low:.3f}-{c.high:.3f}" for c in cells]
            table.add_row(escape(system), *texts, style="dim" if system in evaluation.baselines else "")
        console.print(table)


def _print_errors(evaluation: Evaluation, count: int, *, as_json: bool) -> None:
    from itertools import islice

    from reges_index.evaluation.turn_table import lost_turns

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


def _compare(reports: tuple[str, str], options: dict[str, Any], *, as_json: bool) -> None:
    from reges_index.evaluation.compare import compare_reports

    found = compare_reports(*reports, **options)
    if as_json:
        print_json(found)
        return
    for protocol, rows in found.items():
        table = Table(
            "first", "second", "metric", title=f"{protocol} targets", title_justify="left", box=None
        )
        table.add_column("difference", justify="right")
        for heading in ("p", "p (Holm)"):
            table.add_column(heading, justify="right")
        for row in rows:
            if row["metric"] in _SHOWN:
                interval = f"{row['value']:+.4f} \\[{row['low']:+.4f}, {row['high']:+.4f}]"
                names = (escape(row["first"]), escape(row["second"]), row["metric"])
                table.add_row(*names, interval, f"{row['p']:.4f}", f"{row['p_holm']:.4f}")
        console.print(table)
