"""`reges index`: put a catalog file into a store."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from reges_index.cli.engine_options import EngineOptions, MaybeName, MaybeStore, PipelineFile, PresetName
from reges_index.cli.output import print_json, say
from reges_index.cli.parts import AsJson, Encoder, Quiet, live_versions, store_place
from reges_index.errors import ConfigError

if TYPE_CHECKING:
    from reges_index.catalog import Item

__all__ = ["index"]

Columns = Annotated[
    list[str] | None,
    typer.Option("--column", help="FIELD=COLUMN of a CSV or JSONL with other names; give it once a field."),
]


def index(
    catalog: Annotated[str, typer.Argument(help="JSONL or CSV file, or demo:films, demo:books.")],
    store: MaybeStore = None,
    name: MaybeName = None,
    preset: PresetName = None,
    pipeline: PipelineFile = None,
    encoder: Encoder = None,
    column: Columns = None,
    encoding: Annotated[str, typer.Option(help="Text encoding of the file.")] = "utf-8",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Make or update a catalog: only items whose content changed are embedded.

    Items that are not in the file any more leave the store. May be killed and run again at any time. Of a
    preset or pipeline the encoder is taken, and of a pipeline the store too.
    """
    options = EngineOptions(store=store, name=name, preset=preset, pipeline=pipeline, encoder=encoder)
    store, name = options.place()
    encoder = options.settings().encoder
    place = store_place(store)
    if name in live_versions(store):
        raise ConfigError(
            f"catalog {name!r} of {store} is live: this would change its first version, not what chats read",
            hint="swap it: LiveCatalog.open(folder, name=...).swap(items); see the guide to live catalogs",
        )
    items = _read(catalog, _mapping(column or []), encoding)

    from reges_index.catalog import ItemCatalog

    opened = ItemCatalog.open(**place, name=name, embed_model=encoder, create=True)
    report = opened.sync(items, show_progress=not quiet)
    if as_json:
        print_json({"store": store, "name": name, "items": len(opened), **asdict(report)})
    else:
        say(
            f"{len(opened):,} items in catalog {name!r} of {store}: {report.added:,} added, "
            f"{report.changed:,} changed, {report.removed:,} removed, {report.unchanged:,} unchanged "
            f"in {report.seconds:.1f} s"
        )


def _mapping(columns: list[str]) -> dict[str, str]:
    mapping: dict[str, str] = {}
    for text in columns:
        field, equals, name = (part.strip() for part in text.partition("="))
        if not equals or not field or not name:
            raise ConfigError(
                f"--column {text!r} is not FIELD=COLUMN", hint="for example --column title=name"
            )
        if field in mapping:
            raise ConfigError(f"--column names {field!r} twice", hint="a field comes from one column")
        mapping[field] = name
    return mapping


def _read(catalog: str, mapping: dict[str, str], encoding: str) -> list[Item]:
    from reges_index.catalog import demo_catalog, read_items

    if not catalog.startswith("demo:"):
        return read_items(catalog, columns=mapping or None, encoding=encoding)
    if mapping:
        raise ConfigError("--column is for files; a demo catalog needs none", hint="leave it out")
    return demo_catalog(catalog.removeprefix("demo:"))
