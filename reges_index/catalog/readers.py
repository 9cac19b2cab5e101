"""Catalog files: JSON Lines, JSON and tables (CSV, TSV), any domain, as everyday programs export them.

Every error names the file and the line, because catalogs are large and made by others; whatever was guessed
is said.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from pydantic import ValidationError

from reges_index.catalog.fields import (
    FIELD_GUESSES,
    ITEM_FIELDS,
    LIST_FIELDS,
    METADATA,
    as_names,
    as_year,
    common_sign,
    is_missing,
    is_reserved_key,
    plain_value,
    simple_name,
    typed_text,
)
from reges_index.catalog.item import Item
from reges_index.dialogue.text import parse_title
from reges_index.errors import InputError

logger = logging.getLogger(__name__)

_FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv"}
_DELIMITERS = (",", ";", "\t", "|")
_SNIFFED_ROWS = 200
_SEPARATOR_LINE = re.compile(r'\ufeff?"?sep=(.)"?[ \t]*\r?\n', re.IGNORECASE)
_UNNAMED = re.compile(r"(Unnamed: \d+)?")
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_Rows = list[tuple[int, dict[str, Any]]]


class ReadItems(NamedTuple):
    """What was read from a file.

    Parameters
    ----------
    items
        In the order of the file, at least one.
    notes
        What was guessed, a sentence each: the delimiter, columns that are numbers, titles taken apart.
    """

    items: list[Item]
    notes: list[str]


def read_items(
    path: str | Path,
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    parse_titles: bool = True,
) -> list[Item]:
    """Read a catalog file; what was guessed is logged as one warning (`read_catalog` returns it).

    Parameters
    ----------
    path
        The file.
    format
        "jsonl", "json" (a list of objects), "csv" or "tsv"; None tells it from the file's ending.
    columns
        From a field of `Item` (or an input name such as "directors", or "metadata.NAME") to the column or
        JSON key that holds it, e.g. ``{"id": "isbn", "authors": "Author", "metadata.pages": "num_pages"}``.
        Fields that are not named are looked for under their own name and its usual others; all other columns
        that are not empty become metadata.
    encoding
        Of the file; None takes UTF-8 or what its byte order mark says.
    delimiter
        Between the cells of a table; None finds out which of ``, ; | tab`` it is.
    parse_titles
        Take year and article out of titles such as "Matrix, The (1999)".

    Returns
    -------
    list of Item
        In the order of the file, at least one.

    Raises
    ------
    InputError
        If the file is missing, empty, of an unknown format or encoding, has a malformed line, a mapped column
        that is not there, an item without id or title, a year that is none, or an id twice.
    """
    found = read_catalog(path, format, columns, encoding, delimiter, parse_titles)
    if found.notes:
        logger.warning("%s was read so: %s", path, "; ".join(found.notes))
    return found.items


def read_catalog(
    path: str | Path,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    parse_titles: bool = True,
) -> ReadItems:
    """Read a catalog file and return what was guessed with its items; the rest is as for `read_items`."""
    path = Path(path)
    file = _File(path, columns)
    kind = format or ("csv" if delimiter and path.suffix == ".txt" else _FORMATS.get(path.suffix.lower()))
    if kind not in ("jsonl", "json", "csv", "tsv"):
        raise InputError(
            f"{path}: unknown catalog format {format or path.suffix!r}",
            hint="give the file the ending .jsonl, .json, .csv or .tsv, or pass format= to read_items",
        )
    text = file.decode(encoding)
    is_table = kind in ("csv", "tsv")
    decimal_comma = False
    if is_table:
        text, skipped, cut = file.delimiter(text, "\t" if kind == "tsv" else None, delimiter)
        rows, decimal_comma = file.table(text, cut, skipped), cut != ","
    else:
        rows = file.json_rows(text) if kind == "json" else list(file.jsonl_rows(text))
    if not rows:
        raise InputError(f"{path}: the catalog is empty", hint="a catalog needs at least one item")
    targets = file.targets(rows, is_table=is_table)
    if is_table or _are_texts(rows):
        file.type_columns(rows, targets, decimal_comma)
    items: dict[str, Item] = {}
    lines: dict[str, int] = {}
    for line, row in rows:
        item = file.item(line, row, targets, parse_titles)
        if item.id in items:
            raise InputError(
                f"{path}: id {item.id!r} occurs twice, on lines {lines[item.id]} and {line}",
                hint="ids must be unique; titles need not be",
            )
        items[item.id], lines[item.id] = item, line
    return ReadItems(list(items.values()), file.told())


class _File:
    """Reads one file, and remembers what it guessed."""

    def __init__(self, path: Path, columns: Mapping[str, str] | None) -> None:
        self.path = path
        self.mapping = dict(columns or {})
        self.notes: list[str] = []
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        for field in self.mapping:
            name = field.removeprefix(METADATA)
            if field not in ITEM_FIELDS and (name == field or is_reserved_key(name)):
                raise InputError(
                    f"{path}: columns maps {field!r}, which is no field of an item",
                    hint=f"fields are {', '.join(sorted(ITEM_FIELDS))} and metadata.NAME",
                )

    def count(self, note: str, example: str) -> None:
        self.counts[note] += 1
        self.examples.setdefault(note, example)

    def told(self) -> list[str]:
        counted = [f"{note}: {n}, such as {self.examples[note]}" for note, n in self.counts.items()]
        return [*self.notes, *counted]

    def wrong(self, line: int, what: str, hint: str) -> InputError:
        return InputError(f"{self.path}: line {line}: {what}", hint=hint)

    # -- bytes and text ----------------------------------------------------------------------------------

    def decode(self, encoding: str | None) -> str:
        try:
            data = self.path.read_bytes()
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            said = "no such file" if missing else f"cannot be read: {error.strerror}"
            raise InputError(f"{self.path}: {said}", hint="check the path") from error
        if encoding is None:
            encoding = next((name for mark, name in _BOMS if data.startswith(mark)), "utf-8")
            odd, even = data[1:400:2], data[0:400:2]
            if encoding == "utf-8" and len(data) > 3 and b"\0" in odd + even:
                # Western text in UTF-16 without a mark: every other byte is zero.
                encoding = "utf-16-le" if odd.count(0) > even.count(0) else "utf-16-be"
            if encoding not in ("utf-8", "utf-8-sig"):
                self.notes.append(f"its encoding is {encoding}")
        try:
            return data.decode(encoding).removeprefix("\ufeff")
        except LookupError:
            raise InputError(
                f"{self.path}: unknown encoding {encoding!r}",
                hint="try 'utf-8', 'utf-16', 'latin-1' or 'cp1252'",
            ) from None
        except UnicodeDecodeError as error:
            line = data[: error.start].decode(encoding, errors="ignore").count("\n") + 1
            hint = "pass the file's encoding, for example encoding='latin-1' (--encoding latin-1)"
            said = f"not {encoding}: {error.reason} (byte {error.start})"
            raise self.wrong(line, said, hint) from error

    def delimiter(self, text: str, usual: str | None, given: str | None) -> tuple[str, int, str]:
        """Return the text without Excel's ``sep=`` line, the lines this leaves out, and the delimiter."""
        told = _SEPARATOR_LINE.match(text)
        text, skipped = (text[told.end() :], 1) if told else (text, 0)
        if given is not None:
            cut = {"tab": "\t", "\\t": "\t"}.get(given, given)
            if len(cut) != 1 or cut in '"\r\n':
                raise InputError(
                    f"{self.path}: the delimiter {given!r} is no single character",
                    hint="pass one, such as ';', or 'tab'",
                )
        else:
            cut = told[1] if told else usual or self._sniff(text)
            if cut not in (",", usual):
                self.notes.append(f"its delimiter is {'tab' if cut == chr(9) else repr(cut)}")
        return text, skipped, cut

    def _sniff(self, text: str) -> str:
        def score(cut: str) -> tuple[bool, bool, float, int]:
            try:
                reader = csv.reader(io.StringIO(text, newline=""), delimiter=cut)
                rows = [row for row in islice(reader, _SNIFFED_ROWS) if any(row)]
            except csv.Error:
                rows = []
            if not rows or len(rows[0]) < 2:
                return False, False, 0.0, 0
            names = {simple_name(cell) for cell in rows[0]} | set(rows[0])
            known = bool(names & {*FIELD_GUESSES["title"], self.mapping.get("title", "title")})
            like_header = sum(len(row) == len(rows[0]) for row in rows) / len(rows)
            return True, known, like_header, len(rows[0])

        return max(_DELIMITERS, key=score)

    # -- rows --------------------------------------------------------------------------------------------

    def jsonl_rows(self, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
        # Not str.splitlines: it also splits at U+2028 and control characters, which may stand inside strings.
        hint = "the format is JSON Lines: one object on each line"
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line, strict=False)  # raw control characters inside strings are let through
            except (json.JSONDecodeError, RecursionError) as error:
                raise self.wrong(number, f"malformed JSON: {error}", hint) from error
            if not isinstance(row, dict):
                raise self.wrong(number, f"expected a JSON object, got {type(row).__name__}", hint)
            yield number, row

    def json_rows(self, text: str) -> _Rows:
        try:
            found = json.loads(text, strict=False)
        except (json.JSONDecodeError, RecursionError):
            return list(self.jsonl_rows(text))  # JSON Lines often bear the plain ending
        if isinstance(found, dict):
            lists = [value for value in found.values() if isinstance(value, list)]
            rows = [value for value in lists if value and all(isinstance(row, dict) for row in value)]
            # An export's wrapper, such as {"count": 2, "results": [...]}; an item itself has a title.
            is_wrapper = len(rows) == 1 and not {*map(simple_name, found)} & {*FIELD_GUESSES["title"]}
            found = rows[0] if is_wrapper else [found]
        if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
            raise InputError(
                f"{self.path}: is no list of JSON objects", hint="write one object for each item"
            )
        return list(enumerate(found, start=1))

    def table(self, text: str, delimiter: str, skipped: int) -> _Rows:
        csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))  # abstracts may be long
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        start = 1 + skipped
        header: list[str] | None = None
        cells_of: list[tuple[int, list[str]]] = []
        try:
            for cells in reader:
                line, start = start, reader.line_num + 1 + skipped
                if not any(cell.strip() for cell in cells):
                    continue
                if header is None:
                    header = [cell.strip() for cell in cells]
                    continue
                if any(cell.strip() for cell in cells[len(header) :]) or len(cells) < len(header):
                    raise self.wrong(
                        line,
                        f"{len(cells)} cells, but the header has {len(header)}",
                        "quote cells that hold the delimiter or line breaks, or name another delimiter=';' "
                        "(--delimiter ';')",
                    )
                cells_of.append((line, cells[: len(header)]))
        except csv.Error as error:
            raise self.wrong(start, f"malformed CSV: {error}", "check the quotes") from error
        names = self._header(header or [], cells_of)
        return [
            (line, {name: cell for name, cell in zip(names, cells, strict=True) if name})
            for line, cells in cells_of
        ]

    def _header(self, header: list[str], rows: list[tuple[int, list[str]]]) -> list[str]:
        """Return the columns' names; empty for one without a name, which is left out."""
        names = list(header)
        has_id = "id" in self.mapping or any(simple_name(name) in FIELD_GUESSES["id"] for name in header)
        for number, name in enumerate(header):
            if not _UNNAMED.fullmatch(name) or name in self.mapping.values():
                continue
            names[number] = ""
            values = [cells[number].strip() for _, cells in rows]
            if number == 0 and not has_id and len({*values} - {""}) == len(rows) > 0:
                names[number] = "id"
                self.notes.append("its first column has no name and is taken for the ids")
            elif any(values):
                self.notes.append(f"column {number + 1} has no name and is left out")
        twice = sorted({name for name in names if name and names.count(name) > 1})
        if twice:
            raise self.wrong(1, f"column {twice[0]!r} occurs twice", "rename one of them")
        return names

    # -- columns -----------------------------------------------------------------------------------------

    def targets(self, rows: _Rows, *, is_table: bool) -> dict[str, str]:
        """Return which field each column is for: a field of `Item`, or ``metadata.NAME``."""
        columns = list(dict.fromkeys(name for _, row in rows for name in row))
        fields = dict(self.mapping)
        for field, column in fields.items():
            if column not in columns:
                self._no_column(field, column, columns)
        taken = set(fields.values())
        for column in columns:  # under their own names
            if column in ITEM_FIELDS and column not in fields and column not in taken:
                fields[column] = column
        free = {simple_name(name): name for name in reversed(columns) if name not in {*fields.values()}}
        for field, guesses in FIELD_GUESSES.items():
            if field in fields or (guess := next((name for name in guesses if name in free), None)) is None:
                continue
            column = free[guess]
            if field == "year" and not self._are_years(rows, column):
                continue
            fields[field] = free.pop(guess)
            self.notes.append(f"column {column!r} is taken for the {field}")
        for field in ("id", "title"):
            if field not in fields and is_table:
                self._no_column(field, field, columns)
        targets = {column: field for field, column in fields.items()}
        for column in columns:
            if column in targets or column == "metadata":
                continue
            if is_reserved_key(column) and any(not is_missing(row.get(column)) for _, row in rows):
                free_name = re.sub(r"^\W+|^_+", "", column.removeprefix("chroma:")) or "other"
                free_name += "_" if is_reserved_key(free_name) else ""
                raise self.wrong(
                    1,
                    f"column {column!r} cannot become metadata under that name, which stores or items keep "
                    "for themselves",
                    f"give it another: columns={{'metadata.{free_name}': {column!r}}} "
                    f"(--column 'metadata.{free_name}={column}')",
                )
            targets[column] = f"{METADATA}{column}"
        return targets

    def _no_column(self, field: str, column: str, columns: list[str]) -> NoReturn:
        named = ", ".join(columns[:40]) or "none"
        hint = f"map it with columns={{{field!r}: 'NAME'}} (--column {field}=NAME)"
        if len(columns) == 1:
            hint += "; if this is one line of several cells, name what parts them: delimiter=';' "
            hint += "(--delimiter ';')"
        raise self.wrong(1, f"no column {column!r} (for {field}); columns are {named}", hint)

    def _are_years(self, rows: _Rows, column: str) -> bool:
        try:
            return any(as_year(row.get(column)) is not None for _, row in rows)
        except ValueError:
            return False

    def type_columns(self, rows: _Rows, targets: Mapping[str, str], decimal_comma: bool) -> None:
        """Make numbers, booleans and lists of metadata columns that hold nothing else."""
        told: dict[str, list[str]] = {}
        for column, target in targets.items():
            if not target.startswith(METADATA):
                continue
            texts = [str(row.get(column) or "") for _, row in rows]
            kind, values = typed_text(texts, decimal_comma=decimal_comma)
            words = f"{kind}s"
            if kind == "text" and (sign := common_sign(texts)):
                bare = [text.replace(sign, "") for text in texts]
                kind, values = typed_text(bare, decimal_comma=decimal_comma)
                words = f"numbers, without {sign}"
                if kind != "number":
                    kind, values = typed_text(texts)
            if kind != "text":
                told.setdefault(words, []).append(column)
            for (_, row), value in zip(rows, values, strict=True):
                row[column] = value
        self.notes += [f"read as {words}: {', '.join(columns)}" for words, columns in told.items()]

    # -- items -------------------------------------------------------------------------------------------

    def item(self, line: int, row: Mapping[str, Any], targets: Mapping[str, str], parse_titles: bool) -> Item:
        fields: dict[str, Any] = {}
        nested = row.get("metadata")
        metadata: dict[str, Any] = dict(nested) if isinstance(nested, dict) else {}
        for column, target in targets.items():
            value = row.get(column)
            if target in LIST_FIELDS:
                fields[target] = as_names(value, is_people=target != "genres")
                if isinstance(value, str) and len(fields[target]) > 1:
                    self.count(f"lists of {target} were read from text", repr(value[:60]))
            elif target == "year":
                try:
                    fields["year"] = as_year(value)
                except ValueError:
                    said = f"year: neither an integer nor a date (got {str(value)[:80]!r})"
                    raise self.wrong(line, said, "correct the line, or map another column") from None
                if fields["year"] is not None and len(str(value).strip().removesuffix(".0")) > 4:
                    self.count("years were read from dates", repr(value))
                    if simple_name(column) != "year":
                        metadata.setdefault(column, value)  # a date says more than its year
            elif target in ITEM_FIELDS:
                fields[target] = value
            elif value not in (None, "", []):
                metadata[target.removeprefix(METADATA)] = value
        if isinstance(fields.get("abstract"), str) and is_missing(fields["abstract"]):
            fields["abstract"] = ""
        for name in ("id", "title"):
            if fields.get(name) in (None, ""):
                hint = f"fill it in, or map another column with columns={{{name!r}: 'NAME'}} "
                raise self.wrong(line, f"the item has no {name}", f"{hint}(--column {name}=NAME)")
        if parse_titles and isinstance(title := fields["title"], str):
            fields["title"], fields["year"] = parse_title(title, fields.get("year"))
            if fields["title"] != title:
                example = f"{title!r} (parse_titles=False, --keep-titles: as they are)"
                self.count("year and article were taken out of titles", example)
        kept = {}
        for key, value in metadata.items():
            try:
                plain = plain_value(value)
            except ValueError as error:
                self.count(f"{key} {error} and was left out", f"line {line}")
                continue
            if plain is not None:
                kept[key] = plain
        given = {key: value for key, value in fields.items() if value is not None}
        try:
            return Item(**given, metadata=kept)
        except ValidationError as error:
            problem = error.errors()[0]
            field = ".".join(str(part) for part in problem["loc"][:2]) or "item"
            reason = problem["msg"].removeprefix("Value error, ")
            said = f"{field}: {reason} (got {str(problem['input'])[:80]!r})"
            raise self.wrong(line, said, "correct the line, or map another column") from error


def _are_texts(rows: _Rows) -> bool:
    """Whether no value is a number or a boolean: such a file was a table once, whose cells are all text."""
    return not any(isinstance(value, (int, float, list, dict)) for _, row in rows for value in row.values())
