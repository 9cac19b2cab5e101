"""What a store must do to hold a catalog: the one interface behind `ItemCatalog`.

A `Table` is one catalog in one store (a Chroma or Qdrant collection, a LanceDB table). A row is a node as
LlamaIndex's own stores write it, so that they read it, with its facets to filter by (see
`reges_index.catalog.filters`) and a hash to tell whether the item has changed. Errors of the store's library
are translated inside it, so that what is above sees only those of this package.
"""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt
from llama_index.core.schema import BaseNode, MetadataMode, TextNode
from llama_index.core.vector_stores.types import MetadataFilters
from llama_index.core.vector_stores.utils import (
    legacy_metadata_dict_to_node,
    metadata_dict_to_node,
    node_to_metadata_dict,
)

from reges_index.catalog.encoder import EncoderIdentity
from reges_index.catalog.fields import FieldNames
from reges_index.catalog.filters import (
    Filter,
    check_keys,
    facets_of,
    item_values,
    parse_filters,
    passes,
)
from reges_index.catalog.item import MARKER, Item, TextTemplate, field_keys
from reges_index.errors import CatalogError, InputError, StoreNotFoundError

logger = logging.getLogger(__name__)

FORMAT = 3
"""Of what is written into stores."""

HASH_KEY = "reges_hash"
FACETS_KEY = "reges_facets"


class Row(NamedTuple):
    """What is written for one item; the vector goes beside it."""

    id: str
    document: str
    metadata: dict[str, Any]


def item_row(item: Item, template: TextTemplate) -> Row:
    """Return the row of an item."""
    node = item.to_node(template)
    metadata = node_to_metadata_dict(node, remove_text=True, flat_metadata=False)
    metadata.pop("abstract", None)  # in the node's JSON and in the document already
    flat = {key: value for key, value in metadata.items() if value is not None and key != MARKER}
    flat |= {FACETS_KEY: facets_of(item_values(item)), HASH_KEY: item.content_hash}
    return Row(item.id, node.get_content(metadata_mode=MetadataMode.NONE), flat)


def whole_node(row: Row) -> dict[str, str]:
    """Return the metadata that hold the row's node, text and all, as LlamaIndex's own stores read it."""
    node = {**json.loads(row.metadata["_node_content"]), "text": row.document}
    content = json.dumps(node, ensure_ascii=False)
    return {"_node_content": content, "_node_type": row.metadata["_node_type"]}


class Stored(NamedTuple):
    """One row of a table; all but the id is None where it was not asked for.

    ``vector`` has shape (dimension,).
    """

    id: str
    document: str | None = None
    metadata: dict[str, Any] | None = None
    vector: npt.NDArray[np.float64] | None = None


def row_node(row: Stored) -> BaseNode:
    """Return the node of a row, whoever wrote it: this package, LlamaIndex, or Chroma's own client."""
    values = dict(row.metadata or {})
    if "_node_content" in values:
        node = metadata_dict_to_node(values, text=row.document)  # None: the text is in the node
        return node if node.node_id == row.id else node.model_copy(update={"id_": row.id})
    plain, _info, relationships = legacy_metadata_dict_to_node(values)
    return TextNode(id_=row.id, text=row.document or "", metadata=plain, relationships=relationships)


def item_of(row: Stored) -> Item:
    """Return the item of a row."""
    item = Item.from_node(row_node(row))
    # A chunk that somebody has put into a table of ours is an item of its own.
    return item if item.id == row.id else item.model_copy(update={"id": row.id})


class Hit(NamedTuple):
    """A row that was found; the score is a cosine, -1 to 1 (of a hybrid search: its own relevance)."""

    row: Stored
    score: float


def rescored(query: Sequence[float], rows: Sequence[Stored]) -> list[Hit]:
    """Return rows with their vectors' cosine with a query, best first; a zero vector resembles nothing."""
    if not rows:
        return []
    one = np.asarray(query, dtype=np.float64)
    many = np.stack([row.vector for row in rows if row.vector is not None])
    norms = np.linalg.norm(many, axis=1) * np.linalg.norm(one)
    scores = np.clip(np.divide(many @ one, norms, out=np.zeros(len(many)), where=norms > 0), -1.0, 1.0)
    return [Hit(rows[n], float(scores[n])) for n in np.argsort(-scores, kind="stable")]


class Wanted(NamedTuple):
    """What is asked of a store; see `Table.search`."""

    vectors: Sequence[Sequence[float]]
    size: int
    where: Filter | None
    with_rows: bool


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
    complete: bool = True
    broken: bool = False


class Table(ABC):
    """One catalog in a store. May be used by several threads.

    `recreate`, `write`, `delete` and `finish` are for whoever is inside of `writing`.

    Attributes
    ----------
    name
        Within the store.
    place
        The store, as messages name it.
    home
        The store, equal for tables of the same one.
    batch_size
        Most rows that are read or written in one call of the store's library.
    """

    place: str
    home: Hashable
    batch_size: int

    def __init__(self, name: str) -> None:
        self.name = name
        self.known_fields: set[str] = set()

    @property
    def label(self) -> str:
        """How messages name the table."""
        return f"catalog {self.name!r} in {self.place}"

    @abstractmethod
    def sibling(self, name: str) -> Table:
        """Return another table of the same store."""

    @abstractmethod
    def names(self) -> list[str]:
        """Names of all tables of the store, sorted."""

    def create(self, identity: EncoderIdentity) -> None:
        """Make it, empty and not complete, unless it is there."""
        if self.name not in self.names():
            with self.writing():
                if self.name not in self.names():
                    self._create(identity)

    @abstractmethod
    def _create(self, identity: EncoderIdentity) -> None:
        """Make it, empty and not complete."""

    def record(self) -> Record:
        """Return what the table says of itself.

        Raises
        ------
        StoreNotFoundError
            If there is no such table; the message says which there are.
        CatalogError
            If it was made by a version with another format.
        """
        if self.name not in (names := self.names()):
            hint = f"catalogs there: {', '.join(names)}" if names else "the store is empty; index the items"
            raise StoreNotFoundError(f"{self.place}: there is no catalog {self.name!r}", hint=hint)
        note = self._note()
        if note is None:
            some = self.rows(self.ids()[:1], with_vectors=True)
            return Record(None, next((len(row.vector) for row in some if row.vector is not None), None))
        if note.get("format") != FORMAT:
            raise CatalogError(
                f"{self.label} has catalog format {note.get('format')}, this version reads {FORMAT}",
                hint="index the items again under another name or in another folder, or update reges-index",
            )
        identity = EncoderIdentity(**note["encoder"])
        return Record(identity, identity.dimension, note["complete"], note.get("broken", False))

    @abstractmethod
    def _note(self) -> dict[str, Any] | None:
        """Return format, encoder and state; None for a table that was made elsewhere."""

    @abstractmethod
    def count(self) -> int:
        """Return the number of rows."""

    @abstractmethod
    def ids(self, where: Filter | None = None) -> list[str]:
        """Return the ids of all rows that pass a filter (`filter_of`), in any order."""

    @abstractmethod
    def marks(self) -> dict[str, str]:
        """Return `Item.content_hash` of every row; of one that this package did not write, an empty text."""

    def rows(self, ids: Sequence[str], *, with_vectors: bool = False) -> Iterator[Stored]:
        """Iterate over rows in this order, each batch as it is when it is read; unknown ids are left out."""
        for start in range(0, len(ids), self.batch_size):
            part = ids[start : start + self.batch_size]
            found = {row.id: row for row in self._read(part, with_vectors)}
            yield from (found[row_id] for row_id in part if row_id in found)

    @abstractmethod
    def _read(self, ids: Sequence[str], with_vectors: bool) -> Iterable[Stored]:
        """Read one batch of rows, in any order."""

    def values(self) -> Iterator[Mapping[str, Any]]:
        """Iterate over what the items can be filtered by."""
        for row in self.rows(self.ids()):
            yield item_values(item_of(row))

    def search(
        self,
        vectors: Sequence[Sequence[float]],
        top_k: int,
        *,
        where: Filter | None = None,
        with_rows: bool = True,
    ) -> list[list[Hit]]:
        """Find the nearest rows of each vector that pass a filter, best first and scored by true cosine.

        Filters know the facets of rows that this package wrote.

        Raises
        ------
        InputError
            If `top_k` is below 1.
        """
        if top_k < 1:
            raise InputError(f"top_k is {top_k}", hint="ask for at least one item")
        size = min(top_k, self.count())
        if not vectors or not size:
            return [[] for _ in vectors]
        return self._nearest(Wanted(vectors, size, where, with_rows))

    @abstractmethod
    def _nearest(self, wanted: Wanted) -> list[list[Hit]]:
        """Do `search` with at least one vector and one row."""

    def search_hybrid(
        self, text: str, vector: Sequence[float], top_k: int, *, where: Filter | None = None
    ) -> list[Hit]:
        """Find rows by words and vector together, scored in the store's own way, where it can do so.

        Raises
        ------
        InputError
            If the store has no such search.
        """
        del text, vector, top_k, where  # nobody looks
        raise InputError(
            f"query mode 'hybrid' is not supported by {self.place}",
            hint="use LanceDB, or reges_index.fusion, which adds BM25 to any store",
        )

    @abstractmethod
    def writing(self) -> AbstractContextManager[Table]:
        """Let one writer at a time in, of this and of other processes; others wait."""

    def drop(self) -> None:
        """Delete the table with all rows."""
        with self.writing():
            self._drop()

    def recreate(self, identity: EncoderIdentity) -> None:
        """Throw the table away and make an empty one."""
        self._drop()
        self._create(identity)

    @abstractmethod
    def _drop(self) -> None:
        """Delete it."""

    @abstractmethod
    def write(self, rows: Sequence[Row], vectors: Sequence[Sequence[float]]) -> None:
        """Add rows or replace those of the same id, whole; at most `batch_size` of them."""

    def delete(self, ids: Sequence[str]) -> None:
        """Remove rows."""
        for start in range(0, len(ids), self.batch_size):
            self._delete(ids[start : start + self.batch_size])

    @abstractmethod
    def _delete(self, ids: Sequence[str]) -> None:
        """Remove one batch of rows."""

    @abstractmethod
    def finish(self) -> None:
        """Record that the table holds a whole catalog."""


class _Adopted(NamedTuple):
    """An item of a table that was made elsewhere: its rows (chunks), and all that it can be filtered by."""

    item: Item
    rows: list[Stored]
    values: dict[str, Any]


class AdoptedTable:
    """A table that was made elsewhere, read by the same rules as a file: each row of this one is an item.

    The chunks of one document are one item. Whatever is more than a plain search takes a look at all rows of
    the table; such tables are small beside what this package writes itself.

    Parameters
    ----------
    inner
        The table as its store has it.
    names
        Which metadata keys hold which fields.
    template
        Of the items' text.
    """

    def __init__(self, inner: Table, names: FieldNames, template: TextTemplate) -> None:
        self.inner = inner
        self.name, self.place, self.label = inner.name, inner.place, inner.label
        self.home, self.batch_size = inner.home, inner.batch_size
        self.known_fields: set[str] = set()
        self._names = names
        self._template = template

    def sibling(self, name: str) -> Table:
        """Return another table of the same store."""
        return self.inner.sibling(name)

    def names(self) -> list[str]:
        """Names of all tables of the store, sorted."""
        return self.inner.names()

    def record(self) -> Record:
        """Return what the table says of itself."""
        return self.inner.record()

    def count(self) -> int:
        """Return the number of items."""
        return len(self._items())

    def ids(self, where: Filter | None = None) -> list[str]:
        """Return the ids of the items that pass a filter."""
        return [item_id for item_id, one in self._items().items() if passes(where, one.values)]

    def marks(self) -> dict[str, str]:
        """Return a hash of every item, which equals none of an item that this package has embedded."""
        return {item_id: f"adopted:{one.item.content_hash}" for item_id, one in self._items().items()}

    def values(self) -> Iterator[dict[str, Any]]:
        """Iterate over what the items can be filtered by, under their own keys and the fields' names."""
        for one in self._items().values():
            yield one.values

    def rows(self, ids: Sequence[str], *, with_vectors: bool = False) -> Iterator[Stored]:
        """Iterate over items; the vector of one with several chunks is their mean."""
        found = self._items(with_vectors=with_vectors)
        for one in (found[item_id] for item_id in ids if item_id in found):
            vectors = [row.vector for row in one.rows if row.vector is not None]
            yield self._row(one.item, np.mean(vectors, axis=0) if vectors else None)

    def search(
        self,
        vectors: Sequence[Sequence[float]],
        top_k: int,
        *,
        where: Filter | None = None,
        with_rows: bool = True,
    ) -> list[list[Hit]]:
        """Find the nearest items of each vector, each by its nearest chunk."""
        del with_rows  # without them no item is known
        passing = None if where is None else set(self.ids(where))
        found = []
        for vector in vectors:
            size = top_k if passing is None else max(top_k, self.inner.count())
            while True:
                [hits] = self.inner.search([vector], size)
                items = self._distinct(hits, passing)[:top_k]
                if len(items) >= top_k or len(hits) < size:
                    break
                size *= 2
            found.append(items)
        return found

    def search_hybrid(
        self, text: str, vector: Sequence[float], top_k: int, *, where: Filter | None = None
    ) -> list[Hit]:
        """Find items by words and vector together, where the store can."""
        passing = None if where is None else set(self.ids(where))
        hits = self.inner.search_hybrid(text, vector, max(top_k, self.inner.count()))
        return self._distinct(hits, passing)[:top_k]

    def writing(self) -> NoReturn:
        """Refuse; CatalogError."""
        raise CatalogError(
            f"{self.label} was made elsewhere and is only read",
            hint="make a catalog of its items: ItemCatalog.from_items(catalog.items(), ...)",
        )

    drop = writing

    def _items(self, *, with_vectors: bool = False) -> dict[str, _Adopted]:
        found: dict[str, _Adopted] = {}
        for row in self.inner.rows(sorted(self.inner.ids()), with_vectors=with_vectors):
            if (item := self._item(row)) is None:
                continue
            if item.id in found:
                found[item.id].rows.append(row)
                continue
            values = item_values(item)
            metadata = row_node(row).metadata
            for field, key in field_keys(metadata, self._names).items():
                if field in values:
                    values.setdefault(key, values[field])
            for key, value in metadata.items():
                if isinstance(value, (str, int, float)):
                    values.setdefault(key, value)
            found[item.id] = _Adopted(item, [row], values)
        return found

    def _item(self, row: Stored) -> Item | None:
        try:
            return Item.from_node(row_node(row), self._names)
        except CatalogError as error:
            logger.warning("left out: %s", error)
            return None

    def _distinct(self, hits: Sequence[Hit], passing: set[str] | None) -> list[Hit]:
        best: dict[str, Hit] = {}
        for hit in hits:
            item = self._item(hit.row)
            if item is not None and item.id not in best and (passing is None or item.id in passing):
                best[item.id] = Hit(self._row(item), hit.score)
        return list(best.values())

    def _row(self, item: Item, vector: npt.NDArray[np.float64] | None = None) -> Stored:
        return Stored(*item_row(item, self._template), vector)


AnyTable: TypeAlias = Table | AdoptedTable


def filter_of(table: AnyTable, filters: MetadataFilters | None) -> Filter | None:
    """Return filters as a table reads them, with their fields checked.

    Raises
    ------
    InputError
        If a filter cannot be read, or names a field that no item has; the message says which there are.
    """
    where = parse_filters(filters)
    if where is not None:
        check_keys(where, table.values(), table.label, table.known_fields)
    return where
