"""What can be asked of a catalog, whichever store it is in, and whoever has filled it.

A table that was made elsewhere is read by the same rules as a file (`reges_index.catalog.nodes`): its rows
become items, chunks of one document one item, and filters see the items' fields. That takes a look at all
rows for whatever is more than a plain search; such tables are small beside what this package writes itself.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import NodeWithScore
from llama_index.core.vector_stores.types import MetadataFilters

from reges_index.catalog.encoder import EncoderIdentity, embed_queries
from reges_index.catalog.fields import FieldNames
from reges_index.catalog.filters import Filter, checked, item_values, parse_filters, passes
from reges_index.catalog.item import Item, TextTemplate
from reges_index.catalog.nodes import field_keys
from reges_index.catalog.retriever import CatalogRetriever
from reges_index.catalog.stores.base import Hits, Stored, Table, hybrid_search, row_node
from reges_index.catalog.sync import where_of
from reges_index.catalog.vector_store import CatalogVectorStore
from reges_index.errors import CatalogError, InputError

__all__ = ["CatalogReader", "Contents"]

_SHOWN_IDS = 10


class Contents(NamedTuple):
    """A whole catalog in memory, of one moment.

    Parameters
    ----------
    items
        N items, in the order of their ids.
    vectors
        Shape (N, dimension), as the encoder made them.
    """

    items: tuple[Item, ...]
    vectors: npt.NDArray[np.float32]


@dataclass
class _Adopted:
    """An item of a table that was made elsewhere: its rows (chunks), and all that it can be filtered by."""

    item: Item
    rows: list[Stored]
    values: dict[str, Any]


class CatalogReader(ABC):
    """Reading of items: by id, by query, by filter, or all of them.

    Every call reads one table from beginning to end, also where the class behind it swaps tables.
    """

    @property
    @abstractmethod
    def table(self) -> Table:
        """The table to read, in whatever store it is."""

    @contextmanager
    def lent(self) -> Iterator[Table]:
        """Lend the table for one call; it stays what it is until the call ends."""
        yield self.table

    @property
    @abstractmethod
    def encoder(self) -> EncoderIdentity:
        """What the vectors were made with (of a catalog made elsewhere: what it is opened with)."""

    @property
    @abstractmethod
    def embed_model(self) -> BaseEmbedding:
        """The encoder, loaded on first use."""

    @property
    @abstractmethod
    def template(self) -> TextTemplate:
        """Template of the embedded text."""

    @property
    @abstractmethod
    def is_read_only(self) -> bool:
        """Whether it was made elsewhere, so that this package does not write to it."""

    @property
    @abstractmethod
    def field_names(self) -> FieldNames:
        """Which metadata keys of a catalog made elsewhere hold which fields."""

    @property
    @abstractmethod
    def notes(self) -> Counter[str]:
        """What was left out or guessed in a catalog made elsewhere, by what it was, with how often."""

    @property
    def name(self) -> str:
        """Name of the catalog in its store."""
        return self.table.name

    def ids(self, filters: MetadataFilters | None = None) -> list[str]:
        """Ids of all items, or of those that pass the filters, sorted.

        Raises
        ------
        InputError
            If a filter names a field that no item has; the message says which there are.
        """
        where = parse_filters(filters)
        with self.lent() as table:
            if self.is_read_only:
                return sorted(one.item.id for one in self._adopted(table, where))
            return sorted(table.ids(self._checked(table, where)))

    def items(self) -> Iterator[Item]:
        """Iterate over all items in the order of `ids`."""
        with self.lent() as table:
            if self.is_read_only:
                adopted = self._adopted(table)
                yield from sorted((one.item for one in adopted), key=lambda item: item.id)
                return
            ids = sorted(table.ids())
            for start in range(0, len(ids), table.batch_size):
                part = ids[start : start + table.batch_size]
                found = {row.id: self.item_of(row) for row in table.rows(part)}
                # One that was removed meanwhile is no item any more.
                yield from (found[item_id] for item_id in part if item_id in found)

    def get(self, ids: Sequence[str]) -> list[Item]:
        """Return items by id, in the order asked for.

        Raises
        ------
        CatalogError
            If an id is not in the catalog; the message names it.
        """
        if isinstance(ids, str):
            raise InputError(f"ids is the text {ids!r}", hint="pass a list of ids")
        distinct = list(dict.fromkeys(ids))
        with self.lent() as table:
            found = self._found(table, distinct)
        if missing := [item_id for item_id in distinct if item_id not in found]:
            shown = ", ".join(map(repr, missing[:_SHOWN_IDS]))
            more = f" and {len(missing) - _SHOWN_IDS} more" if len(missing) > _SHOWN_IDS else ""
            raise CatalogError(
                f"{where_of(table)} has no item {shown}{more}", hint="ids() lists what it holds"
            )
        return [found[item_id] for item_id in ids]

    def held(self, ids: Sequence[str]) -> set[str]:
        """Return which of the ids are in the catalog now."""
        with self.lent() as table:
            if self.is_read_only:
                return set(self._found(table, ids))
            return {row.id for row in table.rows(list(dict.fromkeys(ids)))}

    def contents(self) -> Contents:
        """Return all items with their vectors; about 4 bytes for each number of a vector, and the texts.

        Where an item has several chunks, its vector is their mean.
        """
        with self.lent() as table:
            if self.is_read_only:
                adopted = self._adopted(table, with_vectors=True)
                found = [(one.item, [row.vector for row in one.rows]) for one in adopted]
            else:
                rows = table.rows(table.ids(), with_vectors=True)
                found = [(self.item_of(row), [row.vector]) for row in rows]
        found.sort(key=lambda one: one[0].id)
        vectors = np.zeros((len(found), self.encoder.dimension), dtype=np.float32)
        for number, (_, of_item) in enumerate(found):
            vectors[number] = np.mean([vector for vector in of_item if vector is not None], axis=0)
        return Contents(tuple(item for item, _ in found), vectors)

    def fingerprint(self) -> str:
        """Return a hash (SHA-256, hex) of the content: equal for equal items, in any store.

        Takes the hashes that are kept with the items, so it is cheap beside reading them.
        """
        named = self.field_names if self.is_read_only else FieldNames()
        digest = hashlib.sha256(b"" if named == FieldNames() else repr(named).encode())
        with self.lent() as table:
            marks = table.marks()
        for item_id, mark in sorted(marks.items()):
            digest.update(f"{item_id}\0{mark}\0".encode(errors="surrogatepass"))
        return digest.hexdigest()

    def __len__(self) -> int:
        with self.lent() as table:
            return len(self._adopted(table)) if self.is_read_only else table.count()

    def __contains__(self, item_id: object) -> bool:
        return isinstance(item_id, str) and bool(self.held([item_id]))

    def __repr__(self) -> str:
        table = self.table
        return f"{type(self).__name__}({table.name!r}, {table.place}, encoder={self.encoder.name!r})"

    def query(
        self,
        query: str | Sequence[float],
        top_k: int = 50,
        *,
        filters: MetadataFilters | None = None,
    ) -> list[NodeWithScore]:
        """Return the nearest items of one query as nodes.

        Parameters
        ----------
        query
            A text, or a vector of the encoder's dimension.
        top_k
            How many; more than there are returns all.
        filters
            Restrictions on metadata; see `reges_index.catalog.filters`.

        Returns
        -------
        list of NodeWithScore
            Best first; scores are cosines.
        """
        [vector] = self._vectors([query] if isinstance(query, str) else [list(query)])
        with self.lent() as table:
            where = parse_filters(filters)
            if self.is_read_only:
                return self._item_nodes(*self._search_adopted(table, vector, top_k, where))
            [hits] = table.search([vector], top_k, where=self._checked(table, where))
        return _nodes(hits)

    def query_hybrid(
        self, text: str, top_k: int = 50, *, filters: MetadataFilters | None = None
    ) -> list[NodeWithScore]:
        """Return the items that fit a text by its words and by its vector together.

        Returns
        -------
        list of NodeWithScore
            Best first; scores are the store's own (LanceDB: reciprocal ranks), not cosines.

        Raises
        ------
        InputError
            If the text is empty or the store has no such search.
        """
        [vector] = self._vectors([text])
        with self.lent() as table:
            where = parse_filters(filters)
            if not self.is_read_only:
                where = self._checked(table, where)
                return _nodes(hybrid_search(table, text, vector, top_k, where=where))
            hits = hybrid_search(table, text, vector, max(top_k, table.count()))
            passing = None if where is None else {one.item.id for one in self._adopted(table, where)}
            return self._item_nodes(*self._distinct(hits, top_k, passing))

    def retrieve_batch(
        self,
        queries: Sequence[str | Sequence[float]],
        top_k: int = 50,
        *,
        filters: MetadataFilters | None = None,
    ) -> list[list[tuple[str, float]]]:
        """Return ids and cosine scores for many queries, embedded in batches.

        For evaluation and for mining negatives, where nodes would only cost time.

        Parameters
        ----------
        queries
            Texts, or vectors of the encoder's dimension.
        top_k, filters
            As in `query`.

        Returns
        -------
        list of list of (id, score)
            One list for each query, best first.
        """
        vectors = self._vectors(queries)
        with self.lent() as table:
            where = parse_filters(filters)
            if self.is_read_only:
                each = [self._search_adopted(table, vector, top_k, where) for vector in vectors]
                return [[(item.id, score) for item, score in zip(*one, strict=True)] for one in each]
            where = self._checked(table, where)
            found = table.search(vectors, top_k, where=where, with_rows=False)
        return [list(zip(hits.ids, hits.scores, strict=True)) for hits in found]

    def as_index(self) -> VectorStoreIndex:
        """Return the catalog, as it is now, as an ordinary LlamaIndex index."""
        store = CatalogVectorStore(self.table, read_only=self.is_read_only, limits=self.row_limits)
        return VectorStoreIndex.from_vector_store(store, embed_model=self.embed_model)

    def as_retriever(
        self, similarity_top_k: int = 50, filters: MetadataFilters | None = None, *, hybrid: bool = False
    ) -> CatalogRetriever:
        """Return an ordinary LlamaIndex retriever; 50 candidates as in the paper's experiments.

        With `hybrid` it searches by words and vector (`query_hybrid`), where the store can.
        """
        return CatalogRetriever(self, similarity_top_k, filters, hybrid=hybrid)

    def item_of(self, row: Stored) -> Item:
        """Return the item of a row."""
        node = row_node(row.id, row.document, row.metadata)
        if self.is_read_only:
            return Item.from_node(node, self.field_names, notes=self.notes)
        item = Item.from_node(node)
        # A chunk that somebody has put into a table of ours is an item of its own.
        return item if item.id == row.id else item.model_copy(update={"id": row.id})

    def row_limits(
        self, table: Table, filters: MetadataFilters | None
    ) -> tuple[Filter | None, list[str] | None]:
        """Return what a search of a table's rows has to obey: a filter, or the ids of the rows that pass."""
        where = parse_filters(filters)
        if where is None or not self.is_read_only:
            return self._checked(table, where), None
        return None, [row.id for one in self._adopted(table, where) for row in one.rows]

    def _checked(self, table: Table, where: Filter | None) -> Filter | None:
        if where is None:
            return None
        values = (item_values(self.item_of(row)) for row in table.rows(table.ids()))
        known: dict[str, type] = self.__dict__.setdefault("_known_fields", {})
        return checked(where, values, where_of(table), known)

    # -- tables that were made elsewhere -----------------------------------------------------------------

    def _adopted(
        self, table: Table, where: Filter | None = None, *, with_vectors: bool = False
    ) -> list[_Adopted]:
        found: dict[str, _Adopted] = {}
        for row in sorted(table.rows(table.ids(), with_vectors=with_vectors), key=lambda row: row.id):
            if (item := self._readable(row)) is None:
                continue
            if item.id in found:
                found[item.id].rows.append(row)
                continue
            values = item_values(item)
            metadata = row_node(row.id, row.document, row.metadata).metadata
            for field, key in field_keys(metadata, self.field_names).items():
                if field in values:
                    values.setdefault(key, values[field])
            for key, value in metadata.items():
                if isinstance(value, (str, int, float)):
                    values.setdefault(key, value)
            found[item.id] = _Adopted(item, [row], values)
        if where is None:
            return list(found.values())
        where = checked(where, (one.values for one in found.values()), where_of(table))
        return [one for one in found.values() if passes(where, one.values)]

    def _readable(self, row: Stored) -> Item | None:
        try:
            return self.item_of(row)
        except CatalogError:
            self.notes["rows that cannot be read left out"] += 1
            return None

    def _found(self, table: Table, ids: Sequence[str]) -> dict[str, Item]:
        if self.is_read_only:
            wanted = set(ids)
            return {one.item.id: one.item for one in self._adopted(table) if one.item.id in wanted}
        return {row.id: self.item_of(row) for row in table.rows(ids)}

    def _search_adopted(
        self, table: Table, vector: Sequence[float], top_k: int, where: Filter | None
    ) -> tuple[list[Item], list[float]]:
        """Search for items, each of which may have several rows."""
        among = None
        if where is not None:
            among = [row.id for one in self._adopted(table, where) for row in one.rows]
            if not among:
                return [], []
        size = top_k
        while True:
            [hits] = table.search([vector], size, among=among)
            items, scores = self._distinct(hits, top_k)
            if len(items) >= top_k or len(hits.ids) < size:
                return items, scores
            size *= 2

    def _distinct(
        self, hits: Hits, top_k: int, passing: set[str] | None = None
    ) -> tuple[list[Item], list[float]]:
        best: dict[str, tuple[Item, float]] = {}
        for row, score in zip(hits.rows, hits.scores, strict=True):
            item = self._readable(row)
            if item is not None and (passing is None or item.id in passing):
                best.setdefault(item.id, (item, score))
        found = list(best.values())[:top_k]
        return [item for item, _ in found], [score for _, score in found]

    def _item_nodes(self, items: Sequence[Item], scores: Sequence[float]) -> list[NodeWithScore]:
        nodes = (item.to_node(self.template) for item in items)
        return [NodeWithScore(node=node, score=score) for node, score in zip(nodes, scores, strict=True)]

    def _vectors(self, queries: Sequence[str | Sequence[float]]) -> list[list[float]]:
        texts = [query for query in queries if isinstance(query, str)]
        if any(not text.strip() for text in texts):
            raise InputError("a query is empty", hint="pass a text or an embedding")
        embedded = iter(embed_queries(self.embed_model, texts) if texts else [])
        vectors = [next(embedded) if isinstance(query, str) else list(query) for query in queries]
        for vector in vectors:
            if len(vector) != self.encoder.dimension:
                raise InputError(
                    f"a query vector has {len(vector)} numbers, {where_of(self.table)} has "
                    f"{self.encoder.dimension}",
                    hint="embed queries with the catalog's own encoder",
                )
        return vectors


def _nodes(hits: Hits) -> list[NodeWithScore]:
    nodes = (row_node(row.id, row.document, row.metadata) for row in hits.rows)
    return [NodeWithScore(node=node, score=score) for node, score in zip(nodes, hits.scores, strict=True)]
