"""Options that several commands share, and the parts that they build from them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import typer

from reges_index.catalog.place import is_url, place_of
from reges_index.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pydantic.fields import FieldInfo

    from reges_index.catalog import ItemCatalog, LiveCatalog

Encoder = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        help="Embedding model: embedded (ours, the default), minilm (its base), dpr, bge-large, "
        "text-embedding-3-large, openai:MODEL, or a folder or hub name.",
    ),
]
Model = Annotated[
    str | None, typer.Option("--model", help="Folder or hub name of the LLM; embedded SmolLM2 by default.")
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


def option_of(declared: FieldInfo, *flags: str, several: bool = False, panel: str | None = None) -> Any:
    """Return the command-line option of a model's field: its values, the least one and its description."""
    members = _members(declared.annotation)
    kind: Any = next((a for a in members if get_origin(a) is Literal or a in (bool, int, float)), str)
    number = kind in (int, float)
    option = typer.Option(
        *flags,
        min=next((limit.ge for limit in declared.metadata if number and hasattr(limit, "ge")), None),
        help=declared.description,
        show_default=False,
        rich_help_panel=panel,
    )
    return Annotated[(list[kind] if several else kind) | None, option]


def _members(annotation: Any) -> list[Any]:
    """Return the kinds that an annotation is a union of, without what is noted beside them."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _members(part)]
    return [annotation]


def with_options(
    kind: type[DataclassInstance], name: str = "options"
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for each field of a dataclass, and the object made of them by a name.

    Typer reads a command's options from its signature, so the signature is what is changed.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own_hints = get_type_hints(command, include_extras=True)
        hints = get_type_hints(kind, include_extras=True)
        own = [
            parameter.replace(annotation=own_hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in inspect.signature(command).parameters.values()
            if parameter.name != name
        ]
        shared = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=hints[field.name],
            )
            for field in fields(kind)
        ]

        @wraps(command)
        def run(**given: Any) -> None:
            made = kind(**{parameter.name: given.pop(parameter.name) for parameter in shared})
            command(**{name: made}, **given)

        parameters = [*own, *shared]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate
