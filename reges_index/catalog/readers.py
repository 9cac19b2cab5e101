"""Catalog files: JSONL and CSV, any domain, with a column mapping.

Every error names the file and the line, because catalogs are large and made by others.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reges_index.catalog.item import CREATOR_ALIASES, Item, is_reserved_key
from reges_index.errors import InputError

__all__ = ["read_items"]

_LIST_FIELDS = frozenset({"genres", "creators", "cast", *CREATOR_ALIASES})
_FIELDS = _LIST_FIELDS | {"id", "title", "year", "creator_role", "abstract"}
_FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}
_METADATA = "metadata."


def read_items(
    path: str | Path,
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    encoding: str = "utf-8",
    separators: Sequence[str] = ("|", ";"),
) -> list[Item]:
    """Read a catalog file.

    Parameters
    ----------
    path
        The file.
    format
        "jsonl", "csv" or "tsv"; None tells it from the file's ending.
    columns
        From a field of `Item` (or an input name such as "directors", or "metadata.NAME") to the column or
        JSON key that holds it, e.g. ``{"id": "isbn", "authors": "Author", "metadata.pages": "num_pages"}``.
        Fields that are not named are looked for under their own name; all other columns that are not empty
        become metadata.
    encoding
        Of the file; a byte order mark is skipped.
    separators
        What splits a text cell into a list of names (genres, creators, cast).

    Returns
    -------
    list of Item
        In the order of the file, at least one.

    Raises
    ------
    InputError
        If the file is missing, empty, of an unknown format or encoding, has a malformed line, a mapped column
        that is not there, an item without id or title, a year that is no integer, or an id twice.
    """
    path = Path(path)
    kind = format or _FORMATS.get(path.suffix.lower())
    if kind not in ("jsonl", "csv", "tsv"):
        raise InputError(
            f"{path}: unknown catalog format {format or path.suffix!r}",
            hint="use .jsonl, .csv or .tsv, or pass format='jsonl', 'csv' or 'tsv'",
        )
    mapping = _check_mapping(path, columns)
    text = _decode(path, encoding)
    rows = _jsonl_rows(path, text) if kind == "jsonl" else _csv_rows(path, text, kind, mapping)
    items: list[Item] = []
    seen: dict[str, int] = {}
    for line, row in rows:
        item = _item(path, line, row, mapping, separators)
        if item.id in seen:
            raise InputError(
                f"{path}: id {item.id!r} occurs twice, on lines {seen[item.id]} and {line}",
                hint="ids must be unique; titles need not be",
            )
        seen[item.id] = line
        items.append(item)
    if not items:
        raise InputError(f"{path}: the catalog is empty", hint="a catalog needs at least one item")
    return items


def _check_mapping(path: Path, columns: Mapping[str, str] | None) -> dict[str, str]:
    mapping = dict(columns or {})
    for field in mapping:
        name = field.removeprefix(_METADATA)
        if field not in _FIELDS and (name == field or is_reserved_key(name)):
            raise InputError(
                f"{path}: columns maps {field!r}, which is no field of an item",
                hint=f"fields are {', '.join(sorted(_FIELDS))} and metadata.NAME",
            )
    return mapping


def _decode(path: Path, encoding: str) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file", hint="check the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", hint="check the path") from error
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except LookupError:
        raise InputError(
            f"{path}: unknown encoding {encoding!r}", hint="try 'utf-8', 'utf-16', 'latin-1' or 'cp1252'"
        ) from None
    except UnicodeDecodeError as error:
        line = data[: error.start].decode(encoding, errors="ignore").count("\n") + 1
        raise InputError(
            f"{path}: line {line}: not {encoding}: {error.reason} (byte {error.start})",
            hint="pass the file's encoding, for example encoding='latin-1' (--encoding latin-1)",
        ) from error


def _jsonl_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    # Not str.splitlines: it also splits at U+2028 and control characters, which may stand inside strings.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, strict=False)  # raw control characters inside strings are let through
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(
                f"{path}: line {number}: malformed JSON: {error}",
                hint="the format is JSON Lines: one object on each line",
            ) from error
        if not isinstance(row, dict):
            raise InputError(
                f"{path}: line {number}: expected a JSON object, got {type(row).__name__}",
                hint="the format is JSON Lines: one object on each line",
            )
        yield number, row


def _csv_rows(
    path: Path, text: str, kind: str, mapping: dict[str, str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    limit = csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))  # abstracts may be long
    try:
        yield from _csv_records(path, text, "\t" if kind == "tsv" else ",", mapping)
    finally:
        csv.field_size_limit(limit)


def _csv_records(
    path: Path, text: str, delimiter: str, mapping: dict[str, str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    start = 1
    header: list[str] | None = None
    try:
        for cells in reader:
            line, start = start, reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                _check_header(path, header, mapping)
                continue
            if len(cells) != len(header):
                raise InputError(
                    f"{path}: line {line}: {len(cells)} cells, but the header has {len(header)}",
                    hint="quote cells that hold the delimiter or line breaks",
                )
            yield line, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}: line {start}: malformed CSV: {error}", hint="check the quotes") from error


def _check_header(path: Path, header: list[str], mapping: dict[str, str]) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise InputError(f"{path}: line 1: column {twice[0]!r} occurs twice", hint="rename one of them")
    required = {"id": "id", "title": "title", **mapping}
    for field, column in required.items():
        if column not in header:
            raise InputError(
                f"{path}: line 1: no column {column!r} (for {field}); columns are {', '.join(header)}",
                hint=f"map it with columns={{{field!r}: 'NAME'}} (--column {field}=NAME)",
            )


def _item(
    path: Path, line: int, row: dict[str, Any], mapping: dict[str, str], separators: Sequence[str]
) -> Item:
    where = f"{path}: line {line}"
    fields: dict[str, Any] = {}
    nested = row.get("metadata")
    metadata: dict[str, Any] = dict(nested) if isinstance(nested, dict) else {}
    mapped = set(mapping.values())
    targets = list(mapping.items())
    for column in row:
        if column not in mapped and not (column == "metadata" and isinstance(nested, dict)):
            own_field = column in _FIELDS and column not in mapping
            targets.append((column if own_field else f"{_METADATA}{column}", column))
    for target, column in targets:
        value = row.get(column)
        if target in _FIELDS:
            fields[target] = _names(value, separators) if target in _LIST_FIELDS else value
        elif value not in (None, "", []):
            key = target.removeprefix(_METADATA)
            if is_reserved_key(key):
                raise InputError(
                    f"{where}: column {column!r} cannot become metadata under that name",
                    hint=f"map it with columns={{'metadata.NAME': {column!r}}} (--column)",
                )
            metadata[key] = value
    for name in ("id", "title"):
        if fields.get(name) in (None, ""):
            raise InputError(
                f"{where}: the item has no {name}",
                hint=f"map it with columns={{{name!r}: 'NAME'}} (--column {name}=NAME)",
            )
    metadata = {key: value for key, value in metadata.items() if value is not None}
    try:
        return Item(**{key: value for key, value in fields.items() if value is not None}, metadata=metadata)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"][:2]) or "item"
        reason = problem["msg"].removeprefix("Value error, ")
        raise InputError(
            f"{where}: {field}: {reason} (got {str(problem['input'])[:80]!r})",
            hint="correct the line, or map another column",
        ) from error


def _names(value: Any, separators: Sequence[str]) -> Any:
    if not isinstance(value, str):
        return value
    parts = [value]
    for separator in separators:
        parts = [piece for part in parts for piece in part.split(separator)]
    return [part.strip() for part in parts if part.strip()]
