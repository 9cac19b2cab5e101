"""`reges index`: put a catalog file into a store."""

from __future__ import annotations

from dataclasses import asdict

from reges_index.catalog.live_state import live_in
from reges_index.cli.catalog_file import (
    CatalogFile,
    Columns,
    Delimiter,
    Encoding,
    KeepTitles,
    read_catalog_file,
)
from reges_index.cli.engine_options import EngineOptions, MaybeName, MaybeStore, PipelineFile, PresetName
from reges_index.cli.output import print_json, say
from reges_index.cli.parts import AsJson, Encoder, Quiet, store_place
from reges_index.errors import ConfigError

__all__ = ["index"]


def index(
    catalog: CatalogFile,
    store: MaybeStore = None,
    name: MaybeName = None,
    preset: PresetName = None,
    pipeline: PipelineFile = None,
    encoder: Encoder = None,
    column: Columns = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    keep_titles: KeepTitles = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Make or update a catalog: only items whose content changed are embedded.

    Items that are not in the file any more leave the store. May be killed and run again at any time. Of a
    preset or pipeline the encoder is taken, and of a pipeline the store too.
    """
    options = EngineOptions(store=store, name=name, preset=preset, pipeline=pipeline, encoder=encoder)
    store, name = options.place(new=True)
    encoder = options.settings().encoder
    place = store_place(store)
    if name in live_in(store):
        raise ConfigError(
            f"catalog {name!r} of {store} is live: this would change its first version, not what chats read",
            hint=f"swap it: `reges catalog swap {catalog} --store {store} --name {name}`",
        )
    items = read_catalog_file(catalog, column or [], encoding, delimiter, keep_titles=keep_titles)

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
