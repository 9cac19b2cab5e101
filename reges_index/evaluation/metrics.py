"""Metrics per (turn, target) pair, each pair being one query with one right answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reges_index.evaluation.protocol import Pairs, picked, visible

__all__ = [
    "DEPTH",
    "METRICS",
    "SUCCESS",
    "PairScores",
    "RecommendationProfile",
    "profile_recommendations",
    "score_pairs",
]

SUCCESS = "rec_success_rate"
"""Recall@1 of what was recommended (section 3.3 of the paper)."""

_RANKING_METRICS = (
    *(f"recall@{k}" for k in (1, 5, 10, 20, 50)),
    *(f"mrr@{k}" for k in (10, 50)),
    *(f"ndcg@{k}" for k in (10, 50)),
)
METRICS: tuple[str, ...] = (SUCCESS, *_RANKING_METRICS)
DEPTH = 50
"""Rankings count down to here. All metrics are cut, or a system that lists more would look better."""


@dataclass(frozen=True)
class PairScores:
    """What one system scores on each of P pairs.

    Attributes
    ----------
    values
        Shape (P, M), columns in the order of `METRICS`, each in [0, 1].
    rank
        Shape (P,): place of the target in the ranking that the protocol leaves, 1 being the best; 0 where
        the ranking does not hold it. Not cut at `DEPTH`.
    """

    values: NDArray[np.float64]
    rank: NDArray[np.int64]

    def column(self, metric: str) -> NDArray[np.float64]:
        """Return one metric's values, shape (P,)."""
        return self.values[:, METRICS.index(metric)]


def score_pairs(
    pairs: Pairs,
    rankings: Sequence[Sequence[str]],
    catalog: Mapping[str, int],
    recommended: Sequence[str | None] | None = None,
) -> PairScores:
    """Score the rankings of one system.

    With one right answer, recall, reciprocal rank and nDCG follow from its rank alone.

    Parameters
    ----------
    rankings
        One for each turn, item ids best first, none twice. Ids that are not in ``catalog`` keep their
        place and are misses.
    catalog
        Item id to a number, 0 to M-1.
    recommended
        For each turn the item that was recommended, where that may differ from the first of the ranking;
        None for the first. One that the protocol excludes gives way to the first that it does not.
    """
    count = len(pairs.target)
    if not count:
        return PairScores(np.zeros((0, len(METRICS))), np.zeros(0, dtype=np.int64))
    left = {int(t): visible(rankings[t], pairs.excluded[t]) for t in np.unique(pairs.turn)}
    rank = np.zeros(count, dtype=np.int64)
    success = np.zeros(count)
    for row, (turn, target) in enumerate(zip(pairs.turn.tolist(), pairs.target, strict=True)):
        if target not in catalog:
            continue
        ranking = left[turn]
        rank[row] = ranking.index(target) + 1 if target in ranking else 0
        said = recommended[turn] if recommended is not None else None
        success[row] = picked(said, ranking, pairs.excluded[turn]) == target
    place = np.maximum(rank, 1)  # of no use where there is none
    gains = {"recall": np.ones(count), "mrr": 1 / place, "ndcg": 1 / np.log2(1 + place)}
    columns = [success]
    for metric in _RANKING_METRICS:
        kind, _, cut = metric.partition("@")
        columns.append(np.where((rank > 0) & (rank <= int(cut)), gains[kind], 0.0))
    return PairScores(np.stack(columns, axis=1), rank)


@dataclass(frozen=True)
class RecommendationProfile:
    """How varied and how popular a system's recommendations are, over the turns that a protocol counts.

    Attributes
    ----------
    coverage_at_1, coverage_at_10
        Share of the catalog that is recommended at any turn, or stands in the first ten of its ranking. The
        recommendation is the ranking's first item where the system names no other.
    distinct_at_1, distinct_at_10
        The same as counts of items.
    mean_popularity
        How often the recommended item was a target in the train turns, averaged over the turns that have
        a recommendation; None without train turns or without any recommendation.
    share_unseen
        Share of recommended items that no train turn has as a target; None as above.
    turns_without_ranking, turns_without_recommendation
        Turns whose ranking is empty, and those at which nothing is recommended.
    """

    coverage_at_1: float
    coverage_at_10: float
    distinct_at_1: int
    distinct_at_10: int
    mean_popularity: float | None
    share_unseen: float | None
    turns_without_ranking: int
    turns_without_recommendation: int


def profile_recommendations(
    pairs: Pairs,
    rankings: Sequence[Sequence[str]],
    catalog: Mapping[str, int],
    popularity: Counter[str] | None = None,
    recommended: Sequence[str | None] | None = None,
) -> RecommendationProfile:
    """Describe what is recommended; ids outside the catalog cover nothing.

    Parameters
    ----------
    popularity
        Item id to how often it was a target in training (`baselines.target_counts`).
    recommended
        As for `score_pairs`; an empty text where nothing was recommended.
    """
    turns = np.unique(pairs.turn).tolist()
    tops = [visible(rankings[t], pairs.excluded[t])[:10] for t in turns]
    picks = [
        picked(recommended[t] if recommended is not None else None, top, pairs.excluded[t])
        for t, top in zip(turns, tops, strict=True)
    ]
    firsts = [pick for pick in picks if pick is not None]
    at_1 = {item for item in firsts if item in catalog}
    at_10 = {item for top in tops for item in top if item in catalog}
    seen = [popularity[item] for item in firsts] if popularity is not None else []
    return RecommendationProfile(
        coverage_at_1=len(at_1) / len(catalog) if catalog else 0.0,
        coverage_at_10=len(at_10) / len(catalog) if catalog else 0.0,
        distinct_at_1=len(at_1),
        distinct_at_10=len(at_10),
        mean_popularity=float(np.mean(seen)) if seen else None,
        share_unseen=float(np.mean([n == 0 for n in seen])) if seen else None,
        turns_without_ranking=sum(not top for top in tops),
        turns_without_recommendation=len(picks) - len(firsts),
    )
