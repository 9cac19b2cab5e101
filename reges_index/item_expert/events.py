"""`ItemSelectedEvent`: what LlamaIndex's events around a ranking leave out."""

from __future__ import annotations

from pydantic import BaseModel

from reges_index.item_expert.ranking import RankedCandidate
from reges_index.query_expert.events import ExpertEvent


class CandidateScore(BaseModel):
    """One candidate of an `ItemSelectedEvent`; fields as in `RankedCandidate`."""

    id: str
    title: str
    rank: int
    probability: float | None
    logprob: float | None
    retrieval_score: float | None
    retrieval_rank: int

    @classmethod
    def of(cls, candidate: RankedCandidate) -> CandidateScore:
        """Say of a candidate what can be said in plain data."""
        same = {name: getattr(candidate, name) for name in cls.model_fields if name not in ("id", "title")}
        return cls(id=candidate.item.id, title=candidate.item.title, **same)


class ItemSelectedEvent(ExpertEvent):
    """The item expert has ranked the candidates; sent between LlamaIndex's rerank start and end events.

    Attributes
    ----------
    candidate_tokens
        Of the candidates in the prompt.
    item_id
        The item on the first rank.
    candidates
        All candidates, best first.
    outcome
        How the choice came about; see `Selection`. "failed": the model could not be asked.
    answer
        The model's text, where it wrote the choice instead of having it scored.
    reasoning, reasoning_tokens
        What it wrote before the choice (section 3.7.2); None and 0 where it was not asked to.
    """

    candidate_tokens: int
    item_id: str
    candidates: list[CandidateScore]
    outcome: str
    answer: str | None
    reasoning: str | None
    reasoning_tokens: int
