"""Baselines that every report shows: a system that does not beat these has learnt nothing of use."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from reges_index.catalog.item import Item
from reges_index.dialogue import Turn, render_history
from reges_index.evaluation.data import EvaluationData, target_counts
from reges_index.evaluation.predictions import AlignedPredictions, Prediction, align
from reges_index.fusion.features import BM25

# As bm25s splits by itself: the baseline is BM25 as others run it.
_WORD = re.compile(r"\b\w\w+\b")

LIST_LENGTH = 200
"""Items that BM25 and the retriever list: the 50 that are scored, and room for mentioned ones that leave."""


def most_popular(
    turns: Sequence[Turn], train: Sequence[Turn], items: Sequence[Item]
) -> list[tuple[str, ...]]:
    """Rank by how many train turns have the item as a target; equal ones keep the catalog's order.

    Items that were never a target are not listed.
    """
    counts = target_counts(train)
    order = sorted((item.id for item in items if counts[item.id]), key=lambda item: -counts[item])
    return [tuple(order)] * len(turns)


def last_mentioned(turns: Sequence[Turn]) -> list[tuple[str, ...]]:
    """Rank the items that the dialogue named, most recent first; empty where nothing was named."""
    return [tuple(dict.fromkeys(reversed(turn.mentioned or ()))) for turn in turns]


def bm25_queries(
    queries: Sequence[str], items: Sequence[Item], *, top_k: int = LIST_LENGTH
) -> list[tuple[str, ...]]:
    """Rank by BM25 (bm25s, Lucene's variant, English stop words) of each query against the items' texts.

    The items' text is what dense retrievers get too (`Item.text`). Equal scores keep the catalog's order;
    items that share no word with the query are not listed.
    """
    index = BM25([item.text() for item in items], lambda text: _WORD.findall(text.lower()))
    ids = [item.id for item in items]
    rankings: list[tuple[str, ...]] = []
    for query in queries:
        scores = index.scores(query)
        best = np.argsort(-scores, kind="stable")[:top_k]
        rankings.append(tuple(ids[i] for i in best if scores[i] > 0))
    return rankings


RetrieveBatch = Callable[[list[str], int], Sequence[Sequence[str]]]
"""From queries and a number of items to item ids, best first, one list for each query."""


BASELINES = ("most popular", "last mentioned", "BM25", "retriever")


def baseline_predictions(
    data: EvaluationData, *, retrieve: RetrieveBatch | None = None
) -> tuple[list[AlignedPredictions], dict[str, str]]:
    """Run the baselines that the data allows; BM25 and the retriever search with the whole dialogue.

    Parameters
    ----------
    retrieve
        The dense retriever; None leaves that baseline out.

    Returns
    -------
    The baselines' predictions, and for each one left out the reason.
    """
    missing: dict[str, str] = {}
    rankings: dict[str, list[tuple[str, ...]]] = {}
    if data.train:
        rankings["most popular"] = most_popular(data.turns, data.train, data.items)
    else:
        missing["most popular"] = "no train turns were given (--train)"
    if any(turn.mentioned is not None for turn in data.turns):
        rankings["last mentioned"] = last_mentioned(data.turns)
    else:
        missing["last mentioned"] = "no turn has 'mentioned'"
    whole = [render_history(turn.chat).text for turn in data.turns]
    rankings["BM25"] = bm25_queries(whole, data.items)
    if retrieve is not None:
        rankings["retriever"] = [tuple(found) for found in retrieve(whole, LIST_LENGTH)]
    else:
        missing["retriever"] = "no catalog store was given (--store)"
    made = {
        name: [Prediction(id=t.id, ranking=r) for t, r in zip(data.turns, ranked, strict=True)]
        for name, ranked in rankings.items()
    }
    return [align(name, predictions, data) for name, predictions in made.items()], missing
