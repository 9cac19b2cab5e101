"""`reges data`: importing data sets, and results into a README."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from reges_index.cli.output import console, print_json
from reges_index.cli.parts import AsJson
from reges_index.errors import ConfigError

data_app = typer.Typer(no_args_is_help=True, help="Bring data sets into the form that the commands read.")


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
    from reges_index.evaluation.importers import import_turns, named_titles
    from reges_index.files import write_text

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
    _say(out, report.as_dict(), as_json=as_json)


@data_app.command("rankings")
def rankings(
    source: Annotated[Path, typer.Argument(help="JSONL: a list of item numbers a line, best first.")],
    out: Annotated[Path, typer.Option("--out", help="JSONL of predictions to write.")],
    conversations: Annotated[Path, typer.Option("--conversations", help="JSONL of the turns.")],
    catalog: Annotated[Path, typer.Option("--catalog", help="Items: JSONL, CSV or TSV.")],
    entities: Annotated[Path, typer.Option("--entities", help="entity2id.json of CRSLab or UniCRS.")],
    item_numbers: Annotated[
        Path | None,
        typer.Option("--item-numbers", help="movie_ids.json, where numbers are places in it (CRSLab)."),
    ] = None,
    id_prefix: Annotated[
        str, typer.Option("--id-prefix", help="What stands before the entity's number in catalog ids.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Make predictions of rankings by CRSLab's or UniCRS's item numbers, for reges evaluate --predictions."""
    from reges_index.catalog.readers import read_items
    from reges_index.dialogue import read_turns
    from reges_index.evaluation.importers import convert_rankings
    from reges_index.files import write_text

    made, report = convert_rankings(
        source, read_turns(conversations), read_items(catalog), entities=entities, item_numbers=item_numbers,
        id_prefix=id_prefix,
    )  # fmt: skip
    write_text(out, "".join(one.model_dump_json(exclude_defaults=True) + "\n" for one in made))
    _say(out, report.as_dict(), as_json=as_json)


def _say(out: Path, found: dict[str, Any], *, as_json: bool) -> None:
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


@data_app.command("results")
def results(
    reports: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME=REPORT...", help="Folders that reges evaluate --out wrote."),
    ] = None,
    *,
    into: Annotated[Path, typer.Option("--into", help="Markdown file with <!-- results --> marks.")],
    experiments: Annotated[
        list[str] | None,
        typer.Option(
            "--experiment",
            metavar="NAME=FILE",
            help="An experiment, such as INSPIRED=OUT/ablation.json; its table comes last; repeatable.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the results of a README from finished reports and experiments."""
    from reges_index.evaluation.result import write_results
    from reges_index.evaluation.settings import named_file, named_files

    named_files(reports or ())  # no two of the same name
    found = [named_file(option) for option in (*(reports or ()), *(experiments or ()))]
    if not found:
        raise ConfigError("there is nothing to write", hint="name a report, or an experiment's JSON file")
    made = write_results(into, found)
    if as_json:
        print_json({"into": str(into), "results": found, "markdown": made})
    else:
        written = dict.fromkeys(f"{name} ({Path(place).stem})" for name, place in found)
        console.print(f"{into}: results of {', '.join(written)} written", markup=False)
