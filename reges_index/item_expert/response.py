"""What a response says about the choice beside the answer's text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.schema import NodeWithScore, QueryBundle

from reges_index.catalog.item import Item
from reges_index.dialogue import DialogueQueryBundle
from reges_index.item_expert.ranking import REASONING_KEY

__all__ = ["candidate_row", "response_metadata"]


def response_metadata(bundle: QueryBundle, nodes: Sequence[NodeWithScore]) -> dict[str, Any]:
    """Return what a response says about the choice, from the ranked nodes and their bundle."""
    candidates = [candidate_row(node, rank) for rank, node in enumerate(nodes, 1)]
    best = candidates[0] if candidates else None
    report = bundle.report if isinstance(bundle, DialogueQueryBundle) else {}
    refined = bundle.custom_embedding_strs
    marked = (node.node.metadata for node in nodes)  # not the first one's only: a choice may rank again
    return {
        "item_id": best["id"] if best else None,
        "title": best["title"] if best else None,
        "probability": best["probability"] if best else None,
        "query": refined[0] if refined else None,
        "candidates": candidates,
        "reasoning": next((marks[REASONING_KEY] for marks in marked if REASONING_KEY in marks), None),
        "report": report,
    }


def candidate_row(node: NodeWithScore, rank: int) -> dict[str, Any]:
    """Return one candidate as the command line and the metadata show it."""
    item = Item.from_node(node.node)
    metadata = node.node.metadata
    probability = metadata.get("probability")
    return {
        "id": item.id,
        "title": item.title,
        "year": item.year,
        "probability": probability,
        "retrieval_score": metadata.get("retrieval_score", node.score if probability is None else None),
        "rank": rank,
    }
