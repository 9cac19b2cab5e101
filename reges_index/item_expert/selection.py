"""What choosing among k candidates gives back, whichever model chose and however it was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from reges_index.item_expert.prior import EvidenceKind, combine, log_evidence, rank_evidence
from reges_index.item_expert.reasoning import Reasoning

Outcome = Literal["scored", "logprobs", "ranked", "constrained", "structured", "matched", "hallucinated"]


class NoChoice(Exception):
    """One way of asking gave no choice; the next one is tried.

    Attributes
    ----------
    lasting
        Whether it would be so again, since the server does not offer what it takes.
    """

    def __init__(self, reason: str, *, lasting: bool = False) -> None:
        super().__init__(reason)
        self.lasting = lasting


@dataclass(frozen=True)
class Selection:
    """A choice among the candidates of one prompt.

    Attributes
    ----------
    order
        Indices of all candidates, best first. Candidates that the model does not place follow in the order in
        which they came (the retriever's).
    outcome
        How the choice came about. "hallucinated": the model named no candidate, so the retriever's order
        stands.
    probabilities
        Of each candidate, in the prompt's order. From the model alone they sum to 1, with a prior to the
        prior's mass (`reges_index.item_expert.prior`). None where there is only an order.
    logprobs
        Log-probability in nats of each candidate's label with its end token, or behind an API of its
        letter; None for other ways, and for a letter that the server did not list.
    evidence, kind
        What the model says of each candidate, in nats, and in which way it has spoken; None where it has said
        nothing.
    pick
        The one candidate that the model named, where it named one.
    answer
        The model's text where it wrote any.
    fallbacks
        How many ways of asking failed before this one gave a choice.
    reasoning
        What the model wrote before it chose (section 3.7.2), where it was asked to.
    details
        What else the report shall say of this way of choosing.
    """

    order: tuple[int, ...]
    outcome: Outcome
    probabilities: tuple[float, ...] | None = None
    logprobs: tuple[float | None, ...] | None = None
    evidence: tuple[float, ...] | None = None
    kind: EvidenceKind | None = None
    pick: int | None = None
    answer: str | None = None
    fallbacks: int = 0
    reasoning: Reasoning | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def nothing(cls, size: int, *, answer: str | None = None, **details: Any) -> Selection:
        """Build the selection where no candidate was named: the retriever's order."""
        return cls(tuple(range(size)), "hallucinated", answer=answer, details=details)

    @classmethod
    def of_pick(
        cls, pick: int | None, size: int, outcome: Outcome, *, answer: str | None = None
    ) -> Selection:
        """Build a selection from one picked index; None means that no candidate was named."""
        if pick is None:
            return cls.nothing(size, answer=answer)
        order = (pick, *(index for index in range(size) if index != pick))
        return cls(order, outcome, kind="pick", pick=pick, answer=answer)

    @classmethod
    def of_ranking(
        cls, placed: Sequence[int], size: int, *, answer: str | None = None, **details: Any
    ) -> Selection:
        """Build a selection from a ranking of some or all candidates, best first."""
        if not placed:
            return cls.nothing(size, answer=answer, **details)
        return cls(
            order=(*placed, *(index for index in range(size) if index not in set(placed))),
            outcome="ranked",
            evidence=rank_evidence(placed, size),
            kind="rank",
            answer=answer,
            details=details,
        )

    @classmethod
    def of_probabilities(
        cls, probabilities: Sequence[float], outcome: Literal["scored", "logprobs"], **fields: Any
    ) -> Selection:
        """Build a selection from the model's probability of each candidate."""
        return cls(
            order=best_first(probabilities),
            outcome=outcome,
            probabilities=tuple(probabilities),
            evidence=log_evidence(probabilities),
            kind="scores" if outcome == "scored" else "logprobs",
            **fields,
        )

    def with_prior(self, prior: Sequence[float], weight: float) -> Selection:
        """Return the choice that prior and model make together; without a word of the model the prior's."""
        chances = combine(prior, self.evidence, weight)
        # The model's own order decides between equals.
        place = {index: rank for rank, index in enumerate(self.order)}
        order = sorted(range(len(chances)), key=lambda index: (-chances[index], place[index]))
        return replace(self, order=tuple(order), probabilities=tuple(chances))


def best_first(values: Sequence[float]) -> tuple[int, ...]:
    """Return the indices of values, the largest first; of equals the first."""
    return tuple(sorted(range(len(values)), key=lambda index: (-values[index], index)))
