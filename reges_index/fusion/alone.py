"""Ranking by the fusion alone, for when LLM_G has no say in the final choice."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.schema import NodeWithScore

from reges_index.catalog.item import Item
from reges_index.errors import InputError
from reges_index.fusion.choice import ChoiceWeights, combine
from reges_index.item_expert.ranking import RankedCandidate, Ranking, marked_node

__all__ = ["rank_alone"]


def rank_alone(weights: ChoiceWeights, nodes: Sequence[NodeWithScore]) -> Ranking:
    """Rank nodes of a `FusionRetriever` by its own probabilities.

    The same order and probabilities as `choose` gives with ``weights.model`` = 0, without asking LLM_G.

    Raises
    ------
    InputError
        If a node has no score, or one outside 0 to 1.
    """
    scores = [node.score for node in nodes if node.score is not None and 0 <= node.score <= 1]
    if len(scores) < len(nodes):
        raise InputError(
            "ranking by the fusion alone needs the retriever's probability of every candidate",
            hint="use FusionRetriever as the retriever",
        )
    chances = combine(weights, scores, None) if nodes else []
    order = sorted(range(len(nodes)), key=lambda n: (-chances[n], n))
    candidates = tuple(
        RankedCandidate(
            item=Item.from_node(nodes[n].node),
            rank=rank,
            probability=chances[n],
            logprob=None,
            retrieval_score=nodes[n].score,
            retrieval_rank=n + 1,
            node=marked_node(nodes[n], chances[n], n + 1, keep_retrieval_score=True),
        )
        for rank, n in enumerate(order, 1)
    )
    report = {"outcome": "fusion", "candidates": len(nodes), "answer": None, "fallbacks": 0}
    return Ranking(candidates, {"rerank": report})
