"""What ranking gives back: candidates with all that is known of them, and their nodes, marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llama_index.core.schema import NodeWithScore

from reges_index.catalog.item import Item
from reges_index.item_expert.prompt import SelectionPrompt
from reges_index.item_expert.selection import Selection

__all__ = [
    "REASONING_KEY",
    "RankedCandidate",
    "Ranking",
    "choice_report",
    "marked_node",
    "ranked_candidates",
]

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
        By the item expert these sum to 1 over all candidates; with a fusion they sum to the chance that the
        true item is among the candidates at all. None where the model gave only a pick.
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


def ranked_candidates(
    nodes: Sequence[NodeWithScore], selection: Selection, *, keep_retrieval_score: bool
) -> tuple[RankedCandidate, ...]:
    """Return the nodes in the order of a selection, with all that is known of each."""
    thought = selection.reasoning
    return tuple(
        RankedCandidate(
            item=Item.from_node(nodes[index].node),
            rank=rank,
            probability=selection.probabilities[index] if selection.probabilities else None,
            logprob=selection.logprobs[index] if selection.logprobs else None,
            retrieval_score=nodes[index].score,
            retrieval_rank=index + 1,
            node=marked_node(
                nodes[index],
                selection.probabilities[index] if selection.probabilities else None,
                index + 1,
                keep_retrieval_score=keep_retrieval_score,
                reasoning=thought.text if thought is not None and rank == 1 else None,
            ),
        )
        for rank, index in enumerate(selection.order, 1)
    )


def choice_report(prompt: SelectionPrompt, selection: Selection) -> dict[str, Any]:
    """Return what a report says of the prompt and of how the choice came about."""
    report: dict[str, Any] = {
        "candidates": len(prompt.labels),
        "candidates_shortened": prompt.candidates.shortened,
        "candidate_tokens": prompt.candidates.tokens,
        "messages_dropped": prompt.history.dropped,
        "message_shortened": prompt.history.shortened,
        "outcome": selection.outcome,
        "answer": selection.answer,
        # Where the order and, if there are any, the probabilities come from.
        "score_source": "retrieval" if selection.outcome == "hallucinated" else selection.outcome,
        "fallbacks": selection.fallbacks,
        **selection.details,
    }
    if (thought := selection.reasoning) is not None:
        report["reasoning"] = thought.text
        report["reasoning_tokens"] = thought.tokens
        report["reasoning_cut"] = thought.cut
    return report


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
