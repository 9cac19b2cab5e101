"""The catalog file that `reges index` and `reges catalog swap` take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from reges_index.errors import ConfigError

if TYPE_CHECKING:
    from reges_index.catalog import Item

__all__ = ["CatalogFile", "Columns", "Delimiter", "Encoding", "KeepTitles", "read_catalog_file"]

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


def read_catalog_file(
    catalog: str,
    columns: Sequence[str],
    encoding: str | None,
    delimiter: str | None = None,
    *,
    keep_titles: bool = False,
) -> list[Item]:
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
    from reges_index.cli.output import errors, say

    mapping = _mapping(columns)
    if not catalog.startswith("demo:"):
        found = read_catalog(
            catalog,
            columns=mapping or None,
            encoding=encoding,
            delimiter=delimiter,
            parse_titles=not keep_titles,
        )
        for note in found.notes:
            say(f"note: {catalog}: {note}", "yellow", to=errors)
        return found.items
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
