"""The result of one turn: the query, the ranked candidates, the pick, and how long each stage took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llama_index.core.schema import NodeWithScore

from reges_index.catalog.item import Item
from reges_index.dialogue import DialogueQueryBundle
from reges_index.item_expert.prior import PROBABILITY, SCORE_KIND
from reges_index.item_expert.ranking import RankedCandidate, Ranking, candidates_of, marked_node

__all__ = ["Recommendation", "ranking_of_retriever"]


@dataclass(frozen=True)
class Recommendation:
    """What ReGeS answers to one dialogue.

    Attributes
    ----------
    bundle
        The dialogue, with the refined query where one was written.
    candidates
        What the item expert ranked, best first, or without one what was retrieved; the first one is the
        recommendation.
    rest
        What was retrieved but not shown to the item expert, in the retriever's order.
    excluded
        How many retrieved items were not allowed.
    timings
        Seconds of each stage: query, retrieval, rerank.
    report
        What was cut, what failed over, by stage.
    top_n
        How many candidates `nodes` holds; None is all.
    """

    bundle: DialogueQueryBundle
    candidates: tuple[RankedCandidate, ...]
    rest: tuple[NodeWithScore, ...]
    excluded: int
    timings: dict[str, float]
    report: dict[str, Any]
    top_n: int | None = None

    @property
    def query(self) -> str | None:
        """The refined query; None where none was written, and the dialogue was searched with."""
        written = self.bundle.custom_embedding_strs
        return written[0] if written else None

    @property
    def item(self) -> Item | None:
        """The recommended item; None when nothing was left to recommend."""
        return self.candidates[0].item if self.candidates else None

    @property
    def ranking(self) -> list[str]:
        """Ids of everything retrieved: the ranked candidates, then the rest."""
        return [c.item.id for c in self.candidates] + [Item.from_node(n.node).id for n in self.rest]

    @property
    def nodes(self) -> list[NodeWithScore]:
        """The first ``top_n`` of the ranked candidates as LlamaIndex nodes; ``candidates`` holds all."""
        return [candidate.node for candidate in self.candidates[: self.top_n]]

    def to_dict(self, top_k: int | None = None) -> dict[str, Any]:
        """Return the JSON form that ``reges recommend --json`` prints.

        Parameters
        ----------
        top_k
            How many candidates to list; None lists all.
        """
        best = self.candidates[0] if self.candidates else None
        return {
            "query": self.query,
            "recommendation": None
            if best is None
            else {"id": best.item.id, "title": best.item.title, "probability": best.probability},
            "candidates": [
                {
                    "id": c.item.id,
                    "title": c.item.title,
                    "probability": c.probability,
                    "retrieval_score": c.retrieval_score,
                    "rank": c.rank,
                }
                for c in self.candidates[:top_k]
            ],
            "timings": self.timings,
            "report": self.report,
        }


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
                node=marked_node(node, chance, place, keep_retrieval_score=True),
            )
        )
    report = {"outcome": "retrieval", "score_source": "retrieval", "candidates": len(ranked), "fallbacks": 0}
    return Ranking(tuple(ranked), {"rerank": report})
