"""How rows of a catalog lie in a LanceDB table, and how filters find them there.

LanceDB's tables have typed columns, items have any metadata. So a row carries its metadata twice over: each
value as one text in the list ``facets``, for equality, and the numbers as JSON, for comparing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reges_index.catalog.filters import Filter, Group, Scalar
from reges_index.catalog.stores.base import HASH_KEY, Row, Stored, content_mark, whole_node
from reges_index.errors import CatalogError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["dimension_of", "joined", "row_values", "schema_of", "sql_of", "stored_rows"]

_INTERNAL = frozenset({"_node_content", "_node_type", "doc_id", "ref_doc_id", HASH_KEY})


def schema_of(dimension: int | None) -> pa.Schema:
    """Return the columns of a catalog's table; None leaves the vectors' dimension open."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("id", pa.string()),
            pa.field("doc_id", pa.string()),
            pa.field("vector", pa.list_(pa.float32(), dimension or -1)),
            pa.field("text", pa.string()),
            # What LlamaIndex's own LanceDBVectorStore reads a node from.
            pa.field("metadata", pa.struct([("_node_content", pa.string()), ("_node_type", pa.string())])),
            pa.field("facets", pa.list_(pa.string())),
            pa.field("numbers", pa.json_(pa.utf8())),
            pa.field("hash", pa.string()),
        ]
    )


def row_values(row: Row, vector: Sequence[float]) -> dict[str, Any]:
    """Return what is kept of a row, by column."""
    fields = {key: value for key, value in row.metadata.items() if key not in _INTERNAL}
    return {
        "id": row.id,
        "doc_id": row.metadata.get("doc_id"),
        "vector": np.asarray(vector, dtype=np.float32),
        "text": row.document,
        "metadata": whole_node(row),
        "facets": facets_of(fields),
        "numbers": numbers_of(fields),
        "hash": content_mark(row.metadata, row.document),
    }


def stored_rows(found: pa.Table) -> Iterator[Stored]:
    """Read rows from the columns ``id``, ``text``, ``metadata`` and, if it is there, ``vector``."""
    vectors = found.column("vector").to_pylist() if "vector" in found.column_names else None
    for number in range(found.num_rows):
        metadata = found.column("metadata")[number].as_py()
        vector = None if vectors is None else np.asarray(vectors[number], dtype=np.float64)
        known = {key: value for key, value in (metadata or {}).items() if value is not None}
        yield Stored(found.column("id")[number].as_py(), found.column("text")[number].as_py(), known, vector)


def dimension_of(schema: pa.Schema, where: str) -> int | None:
    """Return the vectors' dimension, None if it is open.

    Raises
    ------
    CatalogError
        If the table lacks a column that a catalog needs.
    """
    names = set(schema.names)
    if not {"id", "vector", "text", "metadata"} <= names:
        raise CatalogError(
            f"{where} has the columns {', '.join(schema.names)}; a catalog needs id, vector, text, metadata",
            hint="make a catalog of your items with ItemCatalog.from_items",
        )
    size = getattr(schema.field("vector").type, "list_size", None)
    return None if size is None else int(size)


def facets_of(metadata: Mapping[str, Any]) -> list[str]:
    """Return one text for each value, and each entry of a list."""
    facets: list[str] = []
    for key, value in metadata.items():
        facets += [_facet(key, entry) for entry in (value if isinstance(value, list) else [value])]
    return facets


def numbers_of(metadata: Mapping[str, Any]) -> str:
    """Return the numbers among the values as a JSON object."""
    return json.dumps({key: value for key, value in metadata.items() if _is_number(value)})


def sql_of(where: Filter) -> str:
    """Translate a filter for tables of this package."""
    if isinstance(where, Group):
        return "(" + f" {where.joint.upper()} ".join(map(sql_of, where.parts)) + ")"
    if where.sign in ("==", "!="):
        found = f"array_has(facets, {quoted(_facet(where.key, where.value))})"
        return found if where.sign == "==" else f"(NOT {found})"
    return f"coalesce(json_get_float(numbers, {quoted(where.key)}) {where.sign} {where.value!r}, false)"


def quoted(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def joined(texts: Iterable[str]) -> str:
    """Return texts as the inside of an SQL list."""
    return ", ".join(map(quoted, texts))


def _facet(key: str, value: Scalar) -> str:
    if isinstance(value, str):
        kind, text = "s", value
    elif isinstance(value, bool):
        kind, text = "b", str(value)
    else:
        # 5 and 5.0 are one number; beyond the range where floats are exact, integers keep their digits.
        whole = isinstance(value, int) or value.is_integer()
        kind, text = "n", str(int(value)) if whole else repr(value)
    return json.dumps([key, kind, text], ensure_ascii=True)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
