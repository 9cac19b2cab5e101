"""What a store must do to hold a catalog: the one interface behind `ItemCatalog`.

A `Table` is one catalog in one store (a Chroma or Qdrant collection, a LanceDB table). A row is a node as
`ChromaVectorStore` writes it (so stock LlamaIndex reads it), with lists as real lists to filter on and a hash
to tell whether the item has changed. Errors of the store's library are translated inside it, so that what is
above sees only those of this package.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from llama_index.core.schema import BaseNode, MetadataMode, TextNode
from llama_index.core.vector_stores.utils import (
    legacy_metadata_dict_to_node,
    metadata_dict_to_node,
    node_to_metadata_dict,
)

from reges_index.catalog.encoder import EncoderIdentity
from reges_index.catalog.filters import Filter
from reges_index.catalog.item import Item, TextTemplate
from reges_index.catalog.nodes import MARKER
from reges_index.errors import InputError

__all__ = [
    "HASH_KEY",
    "Hits",
    "HybridTable",
    "Record",
    "Row",
    "Stored",
    "Table",
    "Writer",
    "content_mark",
    "cosines",
    "hybrid_search",
    "item_row",
    "node_row",
    "row_node",
    "search_size",
    "whole_node",
]


HASH_KEY = "reges_hash"


class Row(NamedTuple):
    """What is written for one item; the vector goes beside it."""

    id: str
    document: str
    metadata: dict[str, Any]


def item_row(item: Item, template: TextTemplate) -> Row:
    """Return the row of an item."""
    row = node_row(item.to_node(template))
    row.metadata[HASH_KEY] = item.content_hash
    return row


def content_mark(metadata: Mapping[str, Any] | None, document: str | None) -> str:
    """Return the item's hash where the row has one, else a hash of its text, which equals no item's."""
    if metadata and (known := metadata.get(HASH_KEY)):
        return str(known)
    text = document if document is not None else (metadata or {}).get("_node_content", "")
    return f"text:{hashlib.sha256(str(text).encode(errors='surrogatepass')).hexdigest()}"


def node_row(node: BaseNode) -> Row:
    """Return the row of any node. Without an item's hash, so that the next sync writes it anew."""
    metadata = node_to_metadata_dict(node, remove_text=True, flat_metadata=False)
    if MARKER in node.metadata:
        marker = json.loads(metadata.pop(MARKER))
        metadata.pop("abstract", None)  # in the node's JSON and in the document already
        makers = {role: json.loads(metadata[key]) for role, key in marker["makers"].items()}
        lists = {key: json.loads(metadata[key]) for key in marker["lists"] if key in metadata}
        lists |= {key: json.loads(metadata[key]) for key in ("genres", "cast") if key in metadata}
        lists |= {marker["makers"][role]: names for role, names in makers.items()}
        # Whoever made it, under one name too; and what they are.
        lists["creators"] = list(dict.fromkeys(name for names in makers.values() for name in names))
        lists["creator_role"] = list(makers)
        # Chroma has no empty lists.
        metadata.update({key: names or None for key, names in lists.items()})
    metadata["id"] = node.node_id
    flat = {key: value for key, value in metadata.items() if value is not None}
    return Row(node.node_id, node.get_content(metadata_mode=MetadataMode.NONE), flat)


def whole_node(row: Row) -> dict[str, str]:
    """Return the metadata that hold the row's node, text and all, as LlamaIndex's own stores read it."""
    node = {**json.loads(row.metadata["_node_content"]), "text": row.document}
    content = json.dumps(node, ensure_ascii=False)
    return {"_node_content": content, "_node_type": row.metadata["_node_type"]}


def row_node(row_id: str, document: str | None, metadata: Mapping[str, Any] | None) -> BaseNode:
    """Return the node of a row, whoever wrote it: this package, LlamaIndex, or Chroma's own client."""
    values = dict(metadata or {})
    if "_node_content" in values:
        node = metadata_dict_to_node(values, text=document)  # None: the text is in the node
        if node.node_id != row_id:
            node = node.model_copy(update={"id_": row_id})
        return node
    plain, _info, relationships = legacy_metadata_dict_to_node(values)
    return TextNode(id_=row_id, text=document or "", metadata=plain, relationships=relationships)


class Stored(NamedTuple):
    """One row of a table; `vector` has shape (dimension,) or is None where it was not asked for."""

    id: str
    document: str | None
    metadata: dict[str, Any] | None
    vector: npt.NDArray[np.float64] | None = None


class Hits(NamedTuple):
    """What was found for one query, best first.

    Parameters
    ----------
    ids
        Ids of the rows.
    scores
        Cosine similarities, -1 to 1 (of a hybrid search: its own relevance).
    rows
        The rows; empty unless asked for.
    """

    ids: list[str]
    scores: list[float]
    rows: list[Stored]


class Record(NamedTuple):
    """What a table says of itself.

    Parameters
    ----------
    identity
        Encoder that made its vectors; None if it was not made by this package.
    dimension
        Length of its vectors; None if nobody can tell yet.
    complete
        Whether a first sync has reached its end.
    broken
        Whether a write was killed in a way that left vectors nobody can trust.
    """

    identity: EncoderIdentity | None
    dimension: int | None
    complete: bool
    broken: bool


class Writer(Protocol):
    """A write in progress, got from `Table.writing`."""

    @property
    def broken(self) -> bool:
        """Whether the table's vectors cannot be trusted: `recreate` it first."""

    def identity(self) -> EncoderIdentity | None:
        """Return the encoder that the table records now; another process may have made it anew."""

    def recreate(self, identity: EncoderIdentity) -> None:
        """Throw the table away and make an empty one."""

    def write(self, rows: Sequence[Row], vectors: Sequence[Sequence[float]]) -> None:
        """Add rows or replace those of the same id, whole; at most `Table.batch_size` of them."""

    def delete(self, ids: Sequence[str]) -> None:
        """Remove rows; at most `Table.batch_size` of them."""

    def finish(self) -> None:
        """Record that the table holds a whole catalog."""


class Table(Protocol):
    """One catalog in a store. May be used by several threads."""

    @property
    def name(self) -> str:
        """Name within the store."""

    @property
    def place(self) -> str:
        """The store, as messages name it."""

    @property
    def home(self) -> Hashable:
        """The store, equal for tables of the same one."""

    @property
    def batch_size(self) -> int:
        """Most rows that are read or written in one call."""

    def sibling(self, name: str) -> Table:
        """Return another table of the same store."""

    def names(self) -> list[str]:
        """Names of all tables of the store, sorted."""

    def create(self, identity: EncoderIdentity) -> None:
        """Make it, empty and not complete, unless it is there."""

    def record(self) -> Record:
        """Return what it says of itself; StoreNotFoundError if there is no such table."""

    def drop(self) -> None:
        """Delete it with all rows."""

    def count(self) -> int:
        """Return the number of rows."""

    def ids(self, where: Filter | None = None) -> list[str]:
        """Return the ids of all rows that pass a filter (see `search`), in any order."""

    def marks(self) -> dict[str, str]:
        """Return a hash of every row's content: `Item.content_hash` where this package wrote the row."""

    def rows(self, ids: Sequence[str], *, with_vectors: bool = False) -> Iterator[Stored]:
        """Iterate over rows in any order; unknown ids are left out."""

    def search(
        self,
        vectors: Sequence[Sequence[float]],
        top_k: int,
        *,
        where: Filter | None = None,
        among: Sequence[str] | None = None,
        with_rows: bool = True,
        with_vectors: bool = False,
    ) -> list[Hits]:
        """Find the nearest rows of each vector, scored by true cosine.

        Only rows that pass the filter and, where ids are given, are among them. Filters know the metadata of
        rows that this package wrote.
        """

    def writing(self) -> AbstractContextManager[Writer]:
        """Let one writer at a time in; others wait."""


@runtime_checkable
class HybridTable(Protocol):
    """A table that searches by words too."""

    def search_hybrid(
        self, text: str, vector: Sequence[float], top_k: int, *, where: Filter | None = None
    ) -> Hits:
        """Find rows by words and vector together, scored in the store's own way."""


def hybrid_search(
    table: Table, text: str, vector: Sequence[float], top_k: int, *, where: Filter | None = None
) -> Hits:
    """Search a table by words and vector together.

    Raises
    ------
    InputError
        If the store has no such search.
    """
    if not isinstance(table, HybridTable):
        raise InputError(
            f"query mode 'hybrid' is not supported by {table.place}",
            hint="use LanceDB, or reges_index.fusion, which adds BM25 to any store",
        )
    return table.search_hybrid(text, vector, top_k, where=where)


def cosines(query: Sequence[float], rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the cosine of a query with each row, shape (n,); a zero vector resembles nothing."""
    one, many = np.asarray(query, dtype=np.float64), np.asarray(rows, dtype=np.float64)
    norms = np.linalg.norm(many, axis=1) * np.linalg.norm(one)
    scores: npt.NDArray[np.float64] = np.divide(many @ one, norms, out=np.zeros(len(many)), where=norms > 0)
    return np.clip(scores, -1.0, 1.0)


def search_size(top_k: int, count: int) -> int:
    """Return how many rows to ask for.

    Raises
    ------
    InputError
        If `top_k` is below 1.
    """
    if top_k < 1:
        raise InputError(f"top_k is {top_k}", hint="ask for at least one item")
    return min(top_k, count)
