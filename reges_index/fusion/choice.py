"""The final choice: what the retrieval knows and what LLM_G says, as one calibrated probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from reges_index.errors import InputError
from reges_index.item_expert.rerank import RankedCandidate, Ranking

__all__ = ["ChoiceWeights", "choose", "combine"]

_FLOOR = 1e-9


@dataclass(frozen=True)
class ChoiceWeights:
    """How the final choice weighs its two witnesses, in log-odds per nat.

    Attributes
    ----------
    retrieval
        Of the fusion's log-probability.
    model
        Of LLM_G's log-probability among the candidates; 0 until it has been fitted with LLM_G's answers.
    """

    retrieval: float = 1.0
    model: float = 0.0


def combine(
    weights: ChoiceWeights, retrieval: Sequence[float], logprobs: Sequence[float] | None
) -> list[float]:
    """Return the probability of each of n candidates.

    Together they have what the retrieval gives them together: the rest belongs to items that were not
    retrieved, and is lost whichever candidate is chosen. (On ReDial half of the true items are not among 50
    candidates; shared out among these, the first one's probability was stated at three times its hits.)

    Parameters
    ----------
    retrieval
        Probabilities by `FusionRetriever`, n of them.
    logprobs
        Log-probabilities by LLM_G in nats, n of them; None leaves the choice to the retrieval.
    """
    chances = np.maximum(np.asarray(retrieval, dtype=np.float64), _FLOOR)
    scores = weights.retrieval * np.log(chances)
    if logprobs is not None:
        told = np.asarray(logprobs, dtype=np.float64)
        # Relative to each other: the share that LLM_G gives to text beside the candidates says nothing.
        scores = scores + weights.model * (told - np.logaddexp.reduce(told))
    held = min(1.0, float(chances.sum()))
    return [held * float(p) for p in np.exp(scores - np.logaddexp.reduce(scores))]


def choose(weights: ChoiceWeights, ranking: Ranking) -> Ranking:
    """Rank again by `combine`; every candidate stays.

    Where LLM_G gave no log-probabilities (an LLM behind an API, a failed call), the order and the
    probabilities stay as they are and the report says so.

    Raises
    ------
    InputError
        If a candidate has no retrieval score, or one outside 0 to 1.
    """
    found = ranking.candidates
    told = [c.logprob for c in found if c.logprob is not None]
    if not found or len(told) < len(found):
        return Ranking(found, {**ranking.report, "choice": {"fused": False}})
    scores = [
        c.retrieval_score for c in found if c.retrieval_score is not None and 0 <= c.retrieval_score <= 1
    ]
    if len(scores) < len(found):
        raise InputError(
            "the final choice needs the retriever's probability of every candidate",
            hint="use FusionRetriever as the retriever",
        )
    chances = combine(weights, scores, told)
    order = sorted(range(len(found)), key=lambda n: (-chances[n], found[n].rank))
    candidates = tuple(_placed(found[n], rank, chances[n]) for rank, n in enumerate(order, 1))
    moved = int(order[0] != 0)
    return Ranking(candidates, {**ranking.report, "choice": {"fused": True, "first_changed": moved}})


def _placed(candidate: RankedCandidate, rank: int, probability: float) -> RankedCandidate:
    node = candidate.node.model_copy()
    inner = node.node.model_copy()
    inner.metadata = {**inner.metadata, "probability": probability}
    node.node, node.score = inner, probability
    return replace(candidate, rank=rank, probability=probability, node=node)
