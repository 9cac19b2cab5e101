"""What the retriever knows and what the model says, as one probability for each candidate.

The posterior of candidate i is proportional to exp(log prior_i + w * evidence_i). The prior is the
retriever's probability that the item is the one, among all items of the catalog; the evidence is in nats,
and w says how far a model's word is to be trusted. All candidates together keep the probability that the
retriever gives them together: the rest belongs to items that were not retrieved, and no model that sees the
candidates only can say anything of these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, TypeAlias

from llama_index.core.schema import NodeWithScore

from reges_index.catalog.item import PROBABILITY, SCORE_KIND
from reges_index.errors import InputError

EvidenceKind: TypeAlias = Literal["rank", "logprobs", "scores", "pick"]
"""How a model has spoken: a ranking, letters' log-probabilities, titles' log-probabilities, or one pick."""

DEFAULT_WEIGHTS: Mapping[EvidenceKind, float] = MappingProxyType(
    {"rank": 2.5, "logprobs": 1.0, "scores": 1.0, "pick": 1.0}
)
"""w by the kind of evidence, where neither the user nor an adapter's manifest says otherwise."""

# A probability of 0 would rule a candidate out for good, whatever the other side says.
_FLOOR = 1e-9


def prior_of(
    nodes: Sequence[NodeWithScore], *, wanted: bool | Literal["auto"], known: bool | None = None
) -> list[float] | None:
    """Return the retriever's probability of each candidate; None where there is none to be used.

    Parameters
    ----------
    nodes
        The candidates.
    wanted
        "auto" uses scores that are said to be probabilities; True uses scores from 0 to 1 in any case; False
        uses none.
    known
        What the retriever says of its scores. None: what the nodes say, in ``metadata["score_kind"]``.

    Raises
    ------
    InputError
        If a prior is wanted in any case, and a score is missing or no probability.
    """
    if wanted is False or not nodes:
        return None
    if wanted == "auto":
        said = all(node.node.metadata.get(SCORE_KIND) == PROBABILITY for node in nodes)
        if not (said if known is None else known):
            return None
    scores = [node.score for node in nodes if node.score is not None and 0.0 <= node.score <= 1.0]
    if len(scores) < len(nodes):
        if wanted == "auto":
            return None
        odd = next(node for node in nodes if node.score is None or not 0.0 <= node.score <= 1.0)
        raise InputError(
            f"prior=True needs a probability of every candidate, and {odd.node.node_id!r} has the score "
            f"{odd.score}",
            hint='use a retriever of probabilities, such as FusionRetriever, or prior="auto"',
        )
    return [float(score) for score in scores]


def combine(prior: Sequence[float], evidence: Sequence[float] | None, weight: float) -> list[float]:
    """Return the probability of each candidate: log prior + weight * evidence, with the prior's total mass.

    Parameters
    ----------
    prior
        Of each candidate, among all items.
    evidence
        In nats, of each candidate; a constant added to all changes nothing. None is no evidence.
    weight
        0 leaves the prior as it is.
    """
    chances = [max(chance, _FLOOR) for chance in prior]
    if evidence is None:
        evidence = [0.0] * len(chances)
    scores = [math.log(chance) + weight * told for chance, told in zip(chances, evidence, strict=True)]
    mass = min(1.0, math.fsum(chances))
    return [share * mass for share in softmax(scores)]


def rank_evidence(ranked: Sequence[int], size: int) -> tuple[float, ...]:
    """Return -log(1 + rank) of each candidate, ranks from 1.

    Of candidates that the model has left out it has only said that they come behind the others: each gets
    the mean of what the places there are worth.

    Parameters
    ----------
    ranked
        Candidates, best first.
    size
        How many candidates there are.
    """
    worth = [-math.log(1 + rank) for rank in range(1, size + 1)]
    behind = worth[len(ranked) :]
    evidence = [math.fsum(behind) / len(behind) if behind else 0.0] * size
    for place, index in enumerate(ranked):
        evidence[index] = worth[place]
    return tuple(evidence)


def pick_evidence(pick: int, size: int, chance: float) -> tuple[float, ...]:
    """Return the evidence of one pick that is right with a stated probability; the others share the rest."""
    if size == 1:
        return (0.0,)
    rest = math.log((1.0 - chance) / (size - 1))
    return tuple(math.log(chance) if index == pick else rest for index in range(size))


def log_evidence(probabilities: Sequence[float]) -> tuple[float, ...]:
    """Return the logarithms of probabilities that a model gives."""
    return tuple(math.log(max(chance, _FLOOR)) for chance in probabilities)


def softmax(values: Sequence[float]) -> list[float]:
    """Return exp(v) / sum(exp(v)), computed from the largest value down so that nothing overflows."""
    top = max(values)
    shares = [math.exp(value - top) for value in values]
    total = math.fsum(shares)
    return [share / total for share in shares]
