"""`reges evaluate` and `reges data import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from reges_index.cli.output import console, errors, print_json
from reges_index.cli.parts import AsJson
from reges_index.errors import ConfigError

if TYPE_CHECKING:
    from reges_index.evaluation.protocol import ProtocolName
    from reges_index.evaluation.scoring import Evaluation

__all__ = ["data_app", "evaluate"]

data_app = typer.Typer(no_args_is_help=True, help="Bring data sets into the form that the commands read.")

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
    as_json: AsJson = False,
) -> None:
    """Score rankings, of any system, under both protocols, with intervals, tests and baselines.

    With --out a folder gets report.json, report.md, report.html and pictures.
    """
    if compare is not None:
        _compare(compare, resamples=resamples, seed=seed, level=level, as_json=as_json)
        return
    from reges_index.evaluation.run import EvaluationConfig, named_files, run_evaluation
    from reges_index.evaluation.summary import summarize

    given: dict[str, Any] = {
        "conversations": conversations,
        "catalog": catalog,
        "predictions": named_files(predictions) if predictions else None,
        "train": train,
        "out": out,
        "store": store,
        "name": name,
        "encoder": encoder,
        "resamples": resamples,
        "seed": seed,
        "level": level,
        "top_k": top_k,
    }
    chosen = {key: value for key, value in given.items() if value is not None}
    settings = EvaluationConfig.from_yaml(config, **chosen) if config else EvaluationConfig(**chosen)
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


def _compare(
    reports: tuple[str, str], *, resamples: int | None, seed: int | None, level: float | None, as_json: bool
) -> None:
    from reges_index.evaluation.compare import compare_reports

    options = {"resamples": resamples, "seed": seed, "level": level}
    found = compare_reports(*reports, **{k: v for k, v in options.items() if v is not None})  # type: ignore[arg-type]
    if as_json:
        print_json(found)
        return
    for protocol, rows in found.items():
        table = Table(
            "first", "second", "metric", title=f"{protocol} targets", title_justify="left", box=None
        )
        table.add_column("difference", justify="right")
        table.add_column("p", justify="right")
        for row in rows:
            if row["metric"] in _SHOWN:
                interval = f"{row['value']:+.4f} \\[{row['low']:+.4f}, {row['high']:+.4f}]"
                table.add_row(
                    escape(row["first"]), escape(row["second"]), row["metric"], interval, f"{row['p']:.4f}"
                )
        console.print(table)


@data_app.command("import")
def import_data(
    source: Annotated[Path, typer.Argument(help="The data set's file.")],
    out: Annotated[Path, typer.Option("--out", help="JSONL of turns to write.")],
    format: Annotated[str, typer.Option("--format", help="inspired, redial, unicrs or neutral.")],
    catalog: Annotated[Path | None, typer.Option("--catalog", help="Items: JSONL, CSV or TSV.")] = None,
    write_catalog: Annotated[
        Path | None, typer.Option("--write-catalog", help="Make a catalog of the titles named, here.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Put before ids; the format by default.")] = "",
    id_prefix: Annotated[
        str, typer.Option("--id-prefix", help="unicrs: what stands before the number in catalog ids.")
    ] = "",
    unmatched: Annotated[
        str | None,
        typer.Option("--unmatched", help="keep or drop items that are not in the catalog (see the docs)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make turns of INSPIRED's TSV, ReDial's or UniCRS's JSONL, or own turns; says what was mapped."""
    from reges_index.catalog.readers import read_items
    from reges_index.evaluation.files import write_text
    from reges_index.evaluation.importers import import_turns, named_titles

    if (catalog is None) == (write_catalog is None):
        raise ConfigError("items come from --catalog or go to --write-catalog", hint="give one of the two")
    if unmatched not in (None, "keep", "drop"):
        raise ConfigError(f"--unmatched {unmatched!r} is unknown", hint="keep or drop")
    items = read_items(catalog) if catalog is not None else named_titles(source, format)
    choice: Any = unmatched
    turns, report = import_turns(source, format, items, name=name, id_prefix=id_prefix, unmatched=choice)
    write_text(out, "".join(turn.model_dump_json() + "\n" for turn in turns))
    if write_catalog is not None:
        write_text(write_catalog, "".join(item.model_dump_json() + "\n" for item in items))
    found = report.as_dict()
    if as_json:
        print_json({"out": str(out), **found})
        return
    counts = ", ".join(
        f"{count} {what.replace('_', ' ')}" for what, count in found["counts"].items() if count
    )
    console.print(f"{out}: {counts}", markup=False)
    matched = ", ".join(f"{count} {kind}" for kind, count in found["matching"].items() if count)
    console.print(f"entries matched: {matched}", markup=False)
    if found["unmatched"]:
        shown = "; ".join(f"{entry} ({count})" for entry, count in found["unmatched"].items())
        console.print(f"not in the catalog ({found['unmatched_distinct']} different): {shown}", markup=False)
