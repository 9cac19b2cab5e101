"""The catalog file that `reges index` and `reges catalog swap` take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from reges_index.errors import ConfigError

if TYPE_CHECKING:
    from reges_index.catalog import Item

__all__ = ["CatalogFile", "Columns", "Encoding", "read_catalog_file"]

CatalogFile = Annotated[str, typer.Argument(help="JSONL or CSV file, or demo:films, demo:books.")]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", help="FIELD=COLUMN of a CSV or JSONL with other names; give it once a field."),
]
Encoding = Annotated[str, typer.Option("--encoding", help="Text encoding of the file.")]


def read_catalog_file(catalog: str, columns: Sequence[str], encoding: str) -> list[Item]:
    """Read the items of a file, or of a demo catalog.

    Raises
    ------
    ConfigError
        If a ``--column`` is not FIELD=COLUMN, or there is no such demo catalog.
    InputError
        If the file is missing, empty or broken; it names the line.
    """
    from reges_index.catalog import demo_catalog, read_items

    mapping = _mapping(columns)
    if not catalog.startswith("demo:"):
        return read_items(catalog, columns=mapping or None, encoding=encoding)
    if mapping:
        raise ConfigError("--column is for files; a demo catalog needs none", hint="leave it out")
    return demo_catalog(catalog.removeprefix("demo:"))


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
