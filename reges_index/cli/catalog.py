"""`reges index` and `reges catalog`: a file into a store, a live catalog swapped and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reges_index.catalog.live_state import live_in
from reges_index.catalog.place import is_url
from reges_index.cli.engine_options import EngineOptions, MaybeName, MaybeStore, PipelineFile, PresetName
from reges_index.cli.output import console, errors, print_json, say
from reges_index.cli.parts import AsJson, Encoder, Quiet, store_place, with_options
from reges_index.errors import ConfigError

if TYPE_CHECKING:
    from reges_index.catalog import CatalogVersion, Item, LiveCatalog

catalog_app = typer.Typer(
    no_args_is_help=True,
    help="Swap a whole catalog while chats read it, and take that back. `reges index` makes the first "
    "version; the first swap makes the catalog live.",
)

CatalogFile = Annotated[str, typer.Argument(help="JSONL, JSON, CSV, TSV, or demo:films, demo:recipes...")]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", help="FIELD=COLUMN of a CSV or JSONL with other names; give it once a field."),
]
Encoding = Annotated[
    str | None, typer.Option("--encoding", help="Text encoding of the file; UTF-8 or what its mark says.")
]
Delimiter = Annotated[
    str | None,
    typer.Option("--delimiter", help="Between the cells of a table: one character, or tab; found by itself."),
]
KeepTitles = Annotated[
    bool,
    typer.Option(
        "--keep-titles",
        help='Leave titles such as "Matrix, The (1999)" as they are: no year, no article moved.',
    ),
]
StateFile = Annotated[
    Path | None,
    typer.Option(
        "--state-file",
        help="Where it is kept which version is live: needed with a server; in a folder, beside the store.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class CatalogOptions:
    """Which catalog is meant, and what its vectors are made with."""

    store: MaybeStore = None
    name: MaybeName = None
    preset: PresetName = None
    pipeline: PipelineFile = None
    encoder: Encoder = None

    @property
    def engine(self) -> EngineOptions:
        """The options of an engine that says the same."""
        return EngineOptions(
            store=self.store, name=self.name, preset=self.preset, pipeline=self.pipeline, encoder=self.encoder
        )


@dataclass(frozen=True, kw_only=True)
class LiveOptions(CatalogOptions):
    """Which live catalog is meant."""

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
        store, name = self.engine.place()
        if is_url(store) and self.state_file is None:
            raise ConfigError(
                "--state-file is missing: a server does not keep which version is live",
                hint="name the file that the app gives to LiveCatalog.open(url=..., state_file=...)",
            )
        encoder = self.engine.settings().encoder

        from reges_index.catalog import LiveCatalog

        live = LiveCatalog.open(
            **store_place(store), name=name, embed_model=encoder, state_file=self.state_file
        )
        return live, store


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """How a catalog file is read."""

    column: Columns = None
    encoding: Encoding = None
    delimiter: Delimiter = None
    keep_titles: KeepTitles = False

    def read(self, catalog: str) -> list[Item]:
        """Read the items of a file, or of a demo catalog, and say on standard error what was guessed.

        Raises
        ------
        ConfigError
            If a ``--column`` is not FIELD=COLUMN, or there is no such demo catalog.
        InputError
            If the file is missing, empty or broken; it names the line.
        """
        from reges_index.catalog import demo_catalog
        from reges_index.catalog.readers import read_catalog

        mapping = _mapping(self.column or ())
        if catalog.startswith("demo:"):
            if mapping:
                raise ConfigError("--column is for files; a demo catalog needs none", hint="leave it out")
            return demo_catalog(catalog.removeprefix("demo:"))
        found = read_catalog(
            catalog,
            columns=mapping or None,
            encoding=self.encoding,
            delimiter=self.delimiter,
            parse_titles=not self.keep_titles,
        )
        for note in found.notes:
            say(f"note: {catalog}: {note}", "yellow", to=errors)
        return found.items


def _mapping(columns: Sequence[str]) -> dict[str, str]:
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


with_live_options = with_options(LiveOptions)


@with_options(CatalogOptions)
@with_options(FileOptions, "file")
def index(
    options: CatalogOptions,
    file: FileOptions,
    catalog: CatalogFile,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Make or update a catalog. Only items whose content changed are embedded.

    Items that are not in the file any more leave the store. May be killed and run again at any time. Of a
    preset or pipeline the encoder is taken, and of a pipeline the store too.
    """
    store, name = options.engine.place(new=True)
    encoder = options.engine.settings().encoder
    place = store_place(store)
    if name in live_in(store):
        raise ConfigError(
            f"catalog {name!r} of {store} is live: this would change its first version, not what chats read",
            hint=f"swap it: `reges catalog swap {catalog} --store {store} --name {name}`",
        )
    items = file.read(catalog)

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


@catalog_app.command("swap")
@with_live_options
@with_options(FileOptions, "file")
def swap(
    options: LiveOptions,
    file: FileOptions,
    catalog: CatalogFile,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Make a new version of exactly the file's items, and the live one once it is whole and checked.

    Who reads it as a live catalog sees it at the next turn. Only what is new is embedded. An empty or broken
    file is refused, and whatever fails, the old version stays live.
    """
    items = file.read(catalog)
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
