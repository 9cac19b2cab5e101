"""How rows of a catalog lie in a LanceDB table, and how they are read, also from tables of LlamaIndex's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reges_index.catalog.rows import HASH_KEY, Row, content_mark, whole_node
from reges_index.catalog.stores.base import Stored
from reges_index.catalog.stores.lancedb_filter import facets_of, numbers_of
from reges_index.errors import CatalogError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["dimension_of", "kinds_of", "row_values", "schema_of", "stored_rows"]

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


def kinds_of(schema: pa.Schema) -> dict[str, str]:
    """Return boolean, number or text for every such field of a foreign table's metadata."""
    import pyarrow as pa

    kinds = {}
    for field in schema.field("metadata").type:
        if pa.types.is_boolean(field.type):
            kinds[field.name] = "boolean"
        elif pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
            kinds[field.name] = "number"
        elif pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            kinds[field.name] = "text"
    return kinds
