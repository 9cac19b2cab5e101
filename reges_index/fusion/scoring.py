"""From a dialogue to a score of every item."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from llama_index.core.base.llms.types import ChatMessage

from reges_index.catalog.item import Item
from reges_index.errors import InputError
from reges_index.fusion.adapter import BLOCKS, TOWER
from reges_index.fusion.features import ABOUT_OTHERS, FEATURES, CatalogSources, QueryVectors
from reges_index.fusion.model import FusionModel
from reges_index.fusion.state import DialogueState
from reges_index.fusion.statistics import title_hash

__all__ = [
    "SOURCES",
    "SourceSwitch",
    "check_sources",
    "feature_matrix",
    "item_biases",
    "log_softmax",
    "score_items",
    "set_named_apart",
]

Floats = npt.NDArray[np.float32]
SourceSwitch: TypeAlias = Collection[str]

_AGAIN = "again_"

SOURCES: dict[str, tuple[str, ...]] = {
    "dense": ("dense_dialogue", "dense_last", "again_dense_dialogue", "again_dense_last"),
    "query": ("dense_query",),
    "adapter": ("adapted", "again_adapted"),
    "bm25": tuple(name for name in FEATURES if name.startswith(("bm25_", "again_bm25_"))),
    "similar": (
        *("dense_named", "dense_named_best", "people_shared"),
        *("genre_shared", "again_genre_shared", "title_shared", "year_gap"),
    ),
    "wishes": ("people_named", "again_people_named", "genre_asked", "genre_ruled_out", "year_asked"),
    "item": ("year", "abstract_length", "no_abstract"),
    "popularity": ("recommended", "recent", "named", "recommended_title"),
    "together": ("together", "together_last"),
    "mentions": tuple(name for name in FEATURES if name.startswith(("is_", "named_"))),
}
"""Sources that can be switched off, and the features each one gives."""


def item_biases(model: FusionModel, items: Sequence[Item]) -> Floats:
    """Return the adapter's bias of each item, shape (N,); read once for a catalog."""
    return model.adapter.bias(np.array([title_hash(item) for item in items], dtype=np.int64))


def check_sources(names: SourceSwitch) -> frozenset[str]:
    """Return the names as a set.

    Raises
    ------
    InputError
        If one is not among `SOURCES`.
    """
    for name in names:
        if name not in SOURCES:
            raise InputError(f"no source {name!r}", hint=f"sources are: {', '.join(SOURCES)}")
    return frozenset(names)


def feature_matrix(
    model: FusionModel,
    sources: CatalogSources,
    biases: Floats,
    messages: Sequence[ChatMessage],
    vectors: QueryVectors,
    state: DialogueState | None = None,
) -> Floats:
    """Return all features of all items, shape (N, len(FEATURES))."""
    state = sources.reader.read(messages) if state is None else state
    matrix = sources.features(messages, vectors, state=state)
    blocks = dict(zip(BLOCKS, (vectors.dialogue, vectors.last, sources.named_vector(state)), strict=True))
    if vectors.tower is not None:
        blocks[TOWER] = vectors.tower
    matrix[:, FEATURES.index("adapted")] = sources.vectors @ model.adapter.query(blocks) + biases
    return set_named_apart(matrix, [item.item for item in state.named])


def set_named_apart(matrix: Floats, named: Sequence[int]) -> Floats:
    """Move the likeness of named items to their own columns, in place, and return the matrix."""
    rows = np.asarray(named, dtype=np.int64)
    for name in FEATURES:
        if name.startswith(_AGAIN):
            matrix[rows, FEATURES.index(name)] = matrix[rows, FEATURES.index(name.removeprefix(_AGAIN))]
    columns = np.array([FEATURES.index(name) for name in ABOUT_OTHERS], dtype=np.int64)
    matrix[rows[:, None], columns] = 0
    return matrix


def score_items(
    model: FusionModel,
    sources: CatalogSources,
    biases: Floats,
    messages: Sequence[ChatMessage],
    vectors: QueryVectors,
    *,
    without: SourceSwitch = (),
    state: DialogueState | None = None,
) -> Floats:
    """Return each item's score, shape (N,): log-odds up to a constant.

    Parameters
    ----------
    state
        Where it has been read already.
    without
        Names of `SOURCES` to switch off.

    Raises
    ------
    InputError
        If a source's name is unknown.
    """
    matrix = feature_matrix(model, sources, biases, messages, vectors, state)
    off = [FEATURES.index(feature) for name in check_sources(without) for feature in SOURCES[name]]
    matrix[:, off] = 0
    return model.score(matrix, sources.statistics.known)


def log_softmax(scores: Floats) -> Floats:
    """Return log-probabilities, in double precision so that they sum to 1."""
    values = scores.astype(np.float64)
    values -= values.max()
    logs: Floats = values - np.log(np.exp(values).sum())
    return logs
