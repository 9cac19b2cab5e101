"""`reges index`: put a catalog file into a store."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from reges_index.cli.output import console, print_json
from reges_index.cli.parts import AsJson, Encoder, Name, Store, store_place
from reges_index.errors import ConfigError

__all__ = ["index"]

Columns = Annotated[
    list[str] | None,
    typer.Option("--column", help="FIELD=COLUMN of a CSV or JSONL with other names; give it once a field."),
]


def index(
    catalog: Annotated[str, typer.Argument(help="JSONL or CSV file, or demo:films, demo:books.")],
    store: Store,
    name: Name = "items",
    encoder: Encoder = None,
    column: Columns = None,
    encoding: Annotated[str, typer.Option(help="Text encoding of the file.")] = "utf-8",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make or update a catalog: only items whose content changed are embedded.

    Items that are not in the file any more leave the store. May be killed and run again at any time.
    """
    from reges_index.catalog import ItemCatalog, demo_catalog, read_items

    mapping = dict(_pair(text) for text in column or [])
    if catalog.startswith("demo:"):
        items = demo_catalog(catalog.removeprefix("demo:"))
    else:
        items = read_items(catalog, columns=mapping or None, encoding=encoding)
    opened = ItemCatalog.open(**store_place(store), name=name, embed_model=encoder, create=True)
    report = opened.sync(items, show_progress=not quiet)
    if as_json:
        print_json({"store": store, "name": name, "items": len(opened), **asdict(report)})
    else:
        console.print(
            f"{len(opened):,} items in catalog {name!r} of {store}: {report.added:,} added, "
            f"{report.changed:,} changed, {report.removed:,} removed, {report.unchanged:,} unchanged "
            f"in {report.seconds:.1f} s"
        )


def _pair(text: str) -> tuple[str, str]:
    field, equals, column = text.partition("=")
    if not equals or not field.strip() or not column.strip():
        raise ConfigError(f"--column {text!r} is not FIELD=COLUMN", hint="for example --column title=name")
    return field.strip(), column.strip()
