"""What a store must do to hold a catalog: the one interface behind `ItemCatalog`.

A `Table` is one catalog in one store (a Chroma or Qdrant collection, a LanceDB table). Errors of the store's
library are translated inside it, so that what is above sees only those of this package.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from reges_index.catalog.encoder import EncoderIdentity
from reges_index.catalog.filters import Filter
from reges_index.catalog.rows import Row
from reges_index.errors import InputError

__all__ = [
    "Hits",
    "HybridTable",
    "Record",
    "Stored",
    "Table",
    "Writer",
    "cosines",
    "hybrid_search",
    "search_size",
]


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
        """Return the ids of all rows that pass a filter, in any order."""

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
        with_rows: bool = True,
        with_vectors: bool = False,
    ) -> list[Hits]:
        """Find the nearest rows of each vector, scored by true cosine."""

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
