"""What choosing one of k candidates gives back, whichever model chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from reges_index.item_expert.prompt import SelectionPrompt
from reges_index.item_expert.reasoning import Reasoning

__all__ = ["NoChoice", "Outcome", "Selection", "Selector", "share_among_equals"]

Outcome = Literal["scored", "logprobs", "constrained", "structured", "matched", "hallucinated"]


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
        Indices of all candidates, best first. Where the model only picked one, the others follow in the
        order in which they came (the retriever's).
    probabilities
        Of each candidate, in the prompt's order, summing to 1; None where the model gave only a pick.
    logprobs
        Log-probability in nats of each candidate's label with its end token, or behind an API of its
        letter; None likewise, and for a letter that the server did not list.
    outcome
        How the choice came about. "hallucinated": the model named no candidate, so the retriever's first
        stands in.
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
    answer: str | None = None
    fallbacks: int = 0
    reasoning: Reasoning | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_pick(
        cls, pick: int | None, size: int, outcome: Outcome, *, answer: str | None = None, fallbacks: int = 0
    ) -> Selection:
        """Build a selection from one picked index; None means that no candidate was named."""
        if pick is None:
            return cls(tuple(range(size)), "hallucinated", answer=answer, fallbacks=fallbacks)
        order = (pick, *(index for index in range(size) if index != pick))
        return cls(order, outcome, answer=answer, fallbacks=fallbacks)

    def after_fallbacks(self, reasons: Mapping[str, str], given_up: Sequence[str]) -> Selection:
        """Return the same choice with what failed before it.

        Parameters
        ----------
        reasons
            Of each way of asking that gave no choice, by its name.
        given_up
            The ways that are not tried any more.
        """
        if not reasons:
            return self
        details = {**self.details, "fallback_reasons": dict(reasons), "given_up": list(given_up)}
        return replace(self, fallbacks=len(reasons), details=details)


class Selector(Protocol):
    """Chooses among the candidates of a prompt."""

    def select(self, prompt: SelectionPrompt) -> Selection:
        """Choose; blocks until the model has answered."""
        ...

    async def aselect(self, prompt: SelectionPrompt) -> Selection:
        """Choose without blocking the event loop."""
        ...


def share_among_equals(labels: Sequence[str], probabilities: Sequence[float]) -> list[float]:
    """Divide a label's probability among the candidates that bear it.

    Parameters
    ----------
    labels
        Of each candidate, repeats allowed.
    probabilities
        Of each candidate's label, so that equal labels come with equal values that were counted once.
    """
    return [p / labels.count(label) for label, p in zip(labels, probabilities, strict=True)]
