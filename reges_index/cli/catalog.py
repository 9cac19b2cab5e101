"""`reges catalog`: swap a live catalog, take a swap back, and clear up after it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reges_index.cli.catalog_file import (
    CatalogFile,
    Columns,
    Delimiter,
    Encoding,
    KeepTitles,
    read_catalog_file,
)
from reges_index.cli.engine_options import EngineOptions, MaybeName, MaybeStore, PipelineFile, PresetName
from reges_index.cli.output import console, errors, print_json, say
from reges_index.cli.parts import AsJson, Encoder, Quiet, is_url, store_place
from reges_index.cli.shared_options import with_options
from reges_index.errors import ConfigError

if TYPE_CHECKING:
    from reges_index.catalog import CatalogVersion, LiveCatalog

__all__ = ["catalog_app"]

catalog_app = typer.Typer(
    no_args_is_help=True,
    help="Swap a whole catalog while chats read it, and take that back. `reges index` makes the first "
    "version; the first swap makes the catalog live.",
)

StateFile = Annotated[
    Path | None,
    typer.Option(
        "--state-file",
        help="Where it is kept which version is live: needed with a server; in a folder, beside the store.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class LiveOptions:
    """Which live catalog is meant, and what its vectors are made with."""

    store: MaybeStore = None
    name: MaybeName = None
    preset: PresetName = None
    pipeline: PipelineFile = None
    encoder: Encoder = None
    state_file: StateFile = None

    def open(self) -> tuple[LiveCatalog, str]:
        """Open the catalog, and return the name of its store with it.

        Raises
        ------
        ConfigError
            If no store is named, or it is a server and no state file is.
        CatalogError
            If there is no such catalog, or it was made with another encoder.
        """
        options = EngineOptions(
            store=self.store,
            name=self.name,
            preset=self.preset,
            pipeline=self.pipeline,
            encoder=self.encoder,
        )
        store, name = options.place()
        if is_url(store) and self.state_file is None:
            raise ConfigError(
                "--state-file is missing: a server does not keep which version is live",
                hint="name the file that the app gives to LiveCatalog.open(url=..., state_file=...)",
            )
        encoder = options.settings().encoder

        from reges_index.catalog import LiveCatalog

        live = LiveCatalog.open(
            **store_place(store), name=name, embed_model=encoder, state_file=self.state_file
        )
        return live, store


with_live_options = with_options(LiveOptions)


@catalog_app.command("swap")
@with_live_options
def swap(
    options: LiveOptions,
    catalog: CatalogFile,
    column: Columns = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    keep_titles: KeepTitles = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Make a new version of exactly the file's items, and the live one once it is whole and checked.

    Who reads it as a live catalog sees it at the next turn. Only what is new is embedded. An empty or broken
    file is refused, and whatever fails, the old version stays live.
    """
    items = read_catalog_file(catalog, column or [], encoding, delimiter, keep_titles=keep_titles)
    live, store = options.open()
    is_first = live.state_file is not None and not live.state_file.exists()
    made = live.swap(items, show_progress=not quiet)
    if is_first:
        say(
            f"note: {live.base_name!r} is live from now on; what opened it before as a plain catalog goes on "
            "with version 1 until it is started again",
            "yellow",
            to=errors,
        )
    _tell(live, store, made, as_json)


@catalog_app.command("rollback")
@with_live_options
def rollback(
    options: LiveOptions,
    to: Annotated[
        int | None,
        typer.Option("--to", min=1, help="Number of the version; the one that was live before by default."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make an earlier version live again."""
    live, store = options.open()
    _tell(live, store, live.rollback(to), as_json)


@catalog_app.command("versions")
@with_live_options
def versions(options: LiveOptions, as_json: AsJson = False) -> None:
    """List the versions that are kept, by number; a catalog that was never swapped has one."""
    live, store = options.open()
    kept = live.versions()
    if as_json:
        found = [version._asdict() for version in kept]
        print_json({"store": store, "name": live.base_name, "versions": found})
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("version", "items"):
        table.add_column(heading, justify="right")
    table.add_column("name in the store", overflow="fold")
    table.add_column("")
    for version in kept:
        mark = "live" if version.is_live else ""
        table.add_row(str(version.number), f"{version.items:,}", Text(version.name), mark)
    console.print(table)


@catalog_app.command("prune")
@with_live_options
def prune(
    options: LiveOptions,
    keep: Annotated[int, typer.Option("--keep", min=0, help="Versions to keep beside the live one.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Forget old versions, and delete those that swaps have made.

    Those that were live last are kept. What `reges index` made is forgotten and stays in the store. Leave a
    running app the time of a turn between a swap and this.
    """
    live, store = options.open()
    names = {version.number: version.name for version in live.versions()}
    gone = live.prune(keep)
    held = set(live.table.names())
    pruned = [
        {"number": number, "name": names[number], "deleted": names[number] not in held} for number in gone
    ]
    if as_json:
        print_json({"store": store, "name": live.base_name, "pruned": pruned})
        return
    for version in pruned:
        end = "deleted" if version["deleted"] else "forgotten; its items stay in the store"
        say(f"version {version['number']} ({version['name']}): {end}")
    if not pruned:
        say(f"nothing to prune: {len(names)} kept")


def _tell(live: LiveCatalog, store: str, version: CatalogVersion, as_json: bool) -> None:
    if as_json:
        print_json({"store": store, "name": live.base_name, "version": version._asdict()})
    else:
        say(
            f"version {version.number} of catalog {live.base_name!r} of {store} is live: "
            f"{version.items:,} items ({version.name})"
        )
