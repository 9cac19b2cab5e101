"""The queries that the paper compares (section 3.5): Original, Direct Prompt, G-augmented R."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding

from reges_index.catalog.catalog import ItemCatalog
from reges_index.catalog.encoder import embed_queries
from reges_index.dialogue import DialogueQueryBundle, Turn, render_history
from reges_index.engines.batch import PredictionLog
from reges_index.evaluation.files import json_lines
from reges_index.evaluation.predictions import Prediction
from reges_index.query_expert.transform import ReGeSQueryTransform

__all__ = [
    "QUERY_NAMES",
    "QueryKind",
    "Retrieving",
    "embed_texts",
    "original_queries",
    "retrieve",
    "written_queries",
]

QueryKind: TypeAlias = Literal["original", "direct", "augmented"]

QUERY_NAMES: dict[QueryKind, str] = {
    "original": "Original (raw dialogue)",
    "direct": "Direct Prompt (untrained LLM)",
    "augmented": "G-augmented R (LLM_QR)",
}


def original_queries(turns: Sequence[Turn]) -> dict[str, list[str]]:
    """Return the whole dialogue as the query, by turn id."""
    return {turn.id: [render_history(turn.chat).text] for turn in turns}


def written_queries(
    turns: Sequence[Turn],
    transform: ReGeSQueryTransform,
    path: Path,
    settings: Mapping[str, Any],
    *,
    batch_size: int = 8,
) -> dict[str, list[str]]:
    """Let a query expert write the queries, batches sorted by length, each on the disk before the next.

    Parameters
    ----------
    path
        JSONL of ``{"id", "query", "texts", "fallback"}``; turns that it holds are not run again.
    settings
        All that the queries depend on. A file made with others is refused.

    Returns
    -------
    By turn id the texts whose mean vector is searched with; the first one is the query.
    """
    with PredictionLog(path, settings) as log:
        todo = [turn for turn in turns if turn.id not in log.finished]
        todo.sort(key=lambda turn: sum(len(message.content) for message in turn.messages))
        for start in range(0, len(todo), batch_size):
            batch = todo[start : start + batch_size]
            bundles = transform.run_batch([DialogueQueryBundle.from_dialogue(turn) for turn in batch])
            log.write(
                [
                    {
                        "id": turn.id,
                        "query": bundle.query_str,
                        "texts": list(bundle.embedding_strs),
                        "fallback": bool(bundle.report.get("query", {}).get("fallback")),
                    }
                    for turn, bundle in zip(batch, bundles, strict=True)
                ]
            )
    wanted = {turn.id for turn in turns}
    return {row["id"]: list(row["texts"]) for _, row in json_lines(path) if row["id"] in wanted}


def embed_texts(
    texts: Sequence[Sequence[str]], model: BaseEmbedding
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the mean vector of each query's texts, as `CatalogRetriever` does; shape (n, dimension)."""
    flat = [text for own in texts for text in own]
    vectors = np.asarray(embed_queries(model, flat), dtype=np.float64)
    ends = np.cumsum([len(own) for own in texts])
    return np.stack([part.mean(axis=0) for part in np.split(vectors, ends[:-1])])


@dataclass(frozen=True)
class Retrieving:
    """A retriever as a system: the ranking is its own order.

    Attributes
    ----------
    queries
        Turn id to the texts to search with.
    depth
        Items to list.
    """

    name: str
    queries: Mapping[str, Sequence[str]]
    catalog: ItemCatalog
    depth: int

    def predict(self, turns: Sequence[Turn]) -> Iterator[Prediction]:
        """Yield what is retrieved for each turn."""
        own = {turn.id: self.queries[turn.id] for turn in turns}
        for turn, found in retrieve(own, self.catalog, self.depth).items():
            yield Prediction(id=turn, ranking=tuple(found), query=own[turn][0])


def retrieve(queries: Mapping[str, Sequence[str]], catalog: ItemCatalog, top_k: int) -> dict[str, list[str]]:
    """Return the item ids that a catalog retrieves for each turn, best first."""
    if not queries:
        return {}
    vectors = embed_texts(list(queries.values()), catalog.embed_model)
    found = catalog.retrieve_batch([vector.tolist() for vector in vectors], top_k)
    return {turn: [item for item, _ in hits] for turn, hits in zip(queries, found, strict=True)}
