"""What ranking gives back: candidates with all that is known of them, and their nodes, marked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llama_index.core.schema import NodeWithScore

from reges_index.catalog.item import Item

__all__ = ["REASONING_KEY", "RankedCandidate", "Ranking", "marked_node"]

# Of the chosen node: what the model wrote before it chose. The underscore keeps it out of `Item.metadata`.
REASONING_KEY = "_reasoning"

_ADDED_KEYS = ("probability", "retrieval_score", "retrieval_rank", REASONING_KEY)


@dataclass(frozen=True)
class RankedCandidate:
    """One candidate with what is known of it after the choice.

    Attributes
    ----------
    rank
        From 1, best first.
    probability
        Of all candidates these sum to 1; None where the model gave only a pick.
    logprob
        Of the candidate's label, in nats; None likewise.
    retrieval_score, retrieval_rank
        The retriever's score (cosine) and rank, from 1.
    """

    item: Item
    rank: int
    probability: float | None
    logprob: float | None
    retrieval_score: float | None
    retrieval_rank: int
    node: NodeWithScore


@dataclass(frozen=True)
class Ranking:
    """All candidates, best first, and a report of how it went (cuts, fall-backs, tokens)."""

    candidates: tuple[RankedCandidate, ...]
    report: dict[str, Any]


def marked_node(
    node: NodeWithScore,
    probability: float | None,
    retrieval_rank: int,
    *,
    keep_retrieval_score: bool,
    reasoning: str | None = None,
) -> NodeWithScore:
    """Return a copy of the node with its probability as score and what is known of it in the metadata.

    A copy, because other components may hold the retriever's node. The added keys are neither embedded nor
    shown to an LLM.
    """
    inner = node.node.model_copy()
    inner.metadata = {**inner.metadata, "retrieval_rank": retrieval_rank}
    if probability is not None:
        inner.metadata["probability"] = probability
    if keep_retrieval_score and node.score is not None:
        inner.metadata["retrieval_score"] = node.score
    if reasoning is not None:
        inner.metadata[REASONING_KEY] = reasoning
    for name in ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys"):
        setattr(inner, name, [*dict.fromkeys([*getattr(inner, name), *_ADDED_KEYS])])
    return NodeWithScore(node=inner, score=node.score if probability is None else probability)
