"""Candidates before and after the choice: one an item, and what is told of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llama_index.core.schema import NodeWithScore, QueryBundle

from reges_index.catalog.item import PROBABILITY, SCORE_KIND, Item, with_metadata
from reges_index.dialogue import DialogueQueryBundle
from reges_index.item_expert.selection import Selection
from reges_index.query_expert.retriever import QUERY_KEY, REPORT_KEY

# Of the chosen node: what the model wrote before it chose. The underscore keeps it out of `Item.metadata`.
REASONING_KEY = "_reasoning"


@dataclass(frozen=True)
class Candidate:
    """One item to choose from, with the first of its nodes and its place among the candidates, from 1."""

    item: Item
    node: NodeWithScore
    retrieval_rank: int


@dataclass(frozen=True)
class RankedCandidate:
    """One candidate with what is known of it after the choice.

    Attributes
    ----------
    rank
        From 1, best first.
    probability
        With the retriever's probabilities as prior: that the item is the one, among all items. Without a
        prior: among the candidates, where these sum to 1; None where the model gave only an order.
    logprob
        Of the candidate's label or letter, in nats, by the model alone; None for other ways of asking.
    retrieval_score, retrieval_rank
        The retriever's score and rank, from 1.
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


def candidates_of(nodes: Sequence[NodeWithScore]) -> list[Candidate]:
    """Return one candidate for each item among the nodes, in the order in which they first come."""
    by_item: dict[str, list[tuple[NodeWithScore, Item]]] = {}
    for node in nodes:
        item = Item.from_node(node.node)
        by_item.setdefault(item.id, []).append((node, item))
    return [
        Candidate(_whole(chunks), chunks[0][0], place) for place, chunks in enumerate(by_item.values(), 1)
    ]


def _whole(chunks: Sequence[tuple[NodeWithScore, Item]]) -> Item:
    """Return the item of some chunks, with the text of all of them in the document's order."""
    best = chunks[0][1]
    in_order = sorted(chunks, key=lambda chunk: getattr(chunk[0].node, "start_char_idx", None) or 0)
    texts = list(dict.fromkeys(item.abstract for _, item in in_order if item.abstract))
    if len(texts) < 2:
        return best
    # Where no metadata names a title, the first line stands in; the document's is that of its first chunk.
    return best.model_copy(update={"title": in_order[0][1].title, "abstract": "\n".join(texts)})


def ranked_candidates(candidates: Sequence[Candidate], selection: Selection) -> tuple[RankedCandidate, ...]:
    """Return the candidates in the order of a selection, with all that is known of each."""
    ranked = []
    for rank, index in enumerate(selection.order, 1):
        found, thought = candidates[index], selection.reasoning
        probability = selection.probabilities[index] if selection.probabilities else None
        node = marked_node(
            found.node,
            probability,
            found.retrieval_rank,
            reasoning=thought.text if thought is not None and rank == 1 else None,
        )
        ranked.append(
            RankedCandidate(
                item=found.item,
                rank=rank,
                probability=probability,
                logprob=selection.logprobs[index] if selection.logprobs else None,
                retrieval_score=found.node.score,
                retrieval_rank=found.retrieval_rank,
                node=node,
            )
        )
    return tuple(ranked)


def ranking_of_retriever(nodes: Sequence[NodeWithScore]) -> Ranking:
    """Return the retriever's own order as a ranking, with its scores where these are probabilities."""
    ranked: list[RankedCandidate] = []
    for found in candidates_of(nodes):
        node, place = found.node, found.retrieval_rank
        chance = node.score if node.node.metadata.get(SCORE_KIND) == PROBABILITY else None
        ranked.append(
            RankedCandidate(
                item=found.item,
                rank=len(ranked) + 1,
                probability=chance,
                logprob=None,
                retrieval_score=node.score,
                retrieval_rank=place,
                node=marked_node(node, chance, place),
            )
        )
    report = {"outcome": "retrieval", "score_source": "retrieval", "candidates": len(ranked), "fallbacks": 0}
    return Ranking(tuple(ranked), {"rerank": report})


def marked_node(
    node: NodeWithScore,
    probability: float | None,
    retrieval_rank: int,
    reasoning: str | None = None,
) -> NodeWithScore:
    """Return a copy of the node with its probability as score and what is known of it in the metadata.

    A copy, because other components may hold the retriever's node. The added keys are neither embedded nor
    shown to an LLM.
    """
    more: dict[str, Any] = {"retrieval_rank": retrieval_rank}
    if probability is not None:
        more["probability"] = probability
    if node.score is not None:
        more["retrieval_score"] = node.score
    if reasoning is not None:
        more[REASONING_KEY] = reasoning
    marked = with_metadata(node, more)
    return marked if probability is None else NodeWithScore(node=marked.node, score=probability)


def response_metadata(bundle: QueryBundle, nodes: Sequence[NodeWithScore]) -> dict[str, Any]:
    """Return what a response says about the choice, from the ranked nodes and their bundle."""
    candidates = [_row(node, rank) for rank, node in enumerate(nodes, 1)]
    best = candidates[0] if candidates else None
    refined = bundle.custom_embedding_strs
    # In LlamaIndex's own engines the nodes carry what a `ReGeSRetriever` and a `ReGeSRerank` have to say.
    marks: dict[str, Any] = {}
    for node in reversed(nodes):
        marks |= node.node.metadata
    report = bundle.report if isinstance(bundle, DialogueQueryBundle) else {}
    return {
        "item_id": best["id"] if best else None,
        "title": best["title"] if best else None,
        "probability": best["probability"] if best else None,
        "query": refined[0] if refined else marks.get(QUERY_KEY),
        "candidates": candidates,
        "reasoning": marks.get(REASONING_KEY),
        "report": {**marks.get(REPORT_KEY, {}), **report},
    }


def _row(node: NodeWithScore, rank: int) -> dict[str, Any]:
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
