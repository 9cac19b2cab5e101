"""The result of one turn: the query, the ranked candidates, the pick, and how long each stage took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llama_index.core.schema import NodeWithScore

from reges_index.catalog.item import Item
from reges_index.dialogue import DialogueQueryBundle
from reges_index.item_expert.rerank import RankedCandidate

__all__ = ["Recommendation"]


@dataclass(frozen=True)
class Recommendation:
    """What ReGeS answers to one dialogue.

    Attributes
    ----------
    bundle
        The dialogue with the refined query.
    candidates
        What the item expert ranked, best first; the first one is the recommendation.
    rest
        What was retrieved but not shown to the item expert, in the retriever's order.
    excluded
        How many retrieved items were not allowed.
    timings
        Seconds of each stage: query, retrieval, rerank.
    report
        What was cut, what failed over, by stage.
    top_n
        How many candidates `nodes` holds, from the item expert's option of this name; None is all.
    """

    bundle: DialogueQueryBundle
    candidates: tuple[RankedCandidate, ...]
    rest: tuple[NodeWithScore, ...]
    excluded: int
    timings: dict[str, float]
    report: dict[str, Any]
    top_n: int | None = None

    @property
    def query(self) -> str:
        """The refined query."""
        return self.bundle.query_str

    @property
    def item(self) -> Item | None:
        """The recommended item; None when nothing was left to recommend."""
        return self.candidates[0].item if self.candidates else None

    @property
    def ranking(self) -> list[str]:
        """Ids of everything retrieved: the reranked candidates, then the rest."""
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
