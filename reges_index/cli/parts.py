"""Options that several commands share, and the parts that they build from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from reges_index.catalog.place import is_url, place_of
from reges_index.errors import ConfigError

if TYPE_CHECKING:
    from reges_index.catalog import ItemCatalog, LiveCatalog

__all__ = ["is_url", "open_catalog", "store_place"]


Encoder = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        help="Embedding model: embedded (all-MiniLM-L6-v2, the default), dpr, bge-large, "
        "text-embedding-3-large, a folder, a hub name, or openai:MODEL.",
    ),
]
Model = Annotated[
    str | None, typer.Option("--model", help="Folder or hub name of the LLM; embedded SmolLM2 by default.")
]
QueryAdapter = Annotated[
    str | None, typer.Option("--query-adapter", help="Folder of a query-expert adapter, or 'none'.")
]
ItemAdapter = Annotated[
    str | None, typer.Option("--item-adapter", help="Folder of an item-expert adapter, or 'none'.")
]
DomainNoun = Annotated[
    str, typer.Option("--domain", help="What an item is called: NOUN or NOUN,PLURAL, such as book,books.")
]
ShownTopK = Annotated[int, typer.Option("--top-k", "--top-n", min=1, help="How many candidates to show.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]


def store_place(store: str) -> dict[str, Any]:
    """Return the arguments of `ItemCatalog.open` for a folder or an address, once that is looked at."""
    if not store.strip():
        raise ConfigError("--store is empty", hint="name a folder, or http://host:port of a Chroma server")
    parts = urlsplit(store) if is_url(store) else None
    if parts is not None and (parts.username or parts.password or parts.query):
        # Here already, and not repeated: it would else be shown, and kept beside predictions.
        raise ConfigError(
            "--store holds a user name, a password or a query, which Chroma does not get",
            hint="write it as http://host:port",
        )
    return place_of(store)


def open_catalog(
    store: str, name: str, encoder: str | None, *, live: bool = False
) -> ItemCatalog | LiveCatalog:
    """Open an existing catalog; one that its folder says is live, or with `live`, at its live version."""
    from reges_index.catalog.live import open_catalog_at

    store_place(store)  # refuses what cannot be one, in the command line's words
    return open_catalog_at(store, name, encoder, live=live)
