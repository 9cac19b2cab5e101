"""How the experiments are run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from reges_index.evaluation.checked import Count, Level, Seed, check_fields
from reges_index.evaluation.experiments.paper import Dataset

__all__ = ["LabSettings"]


@dataclass(frozen=True)
class LabSettings:
    """How the experiments are run.

    Attributes
    ----------
    dataset
        Whose column of the paper stands beside ours; None for other data.
    candidates
        Items that the item expert chooses from where an experiment does not vary it (the paper's k, 50).
    candidate_counts
        The numbers of candidates that Table 4 compares.
    depth
        Items retrieved: room for 50 after mentioned ones have left.
    max_candidate_tokens, max_history_tokens
        Budgets of every item expert's prompt: one candidate's details, and the dialogue. None takes what
        the adapter ``item-expert`` recommends, for the bare model too, so that all read the same.
    train_sample
        Train turns that Figure 8 draws.
    batch_size
        Dialogues at once.
    seed, resamples, level
        Of draws, intervals and tests.

    Raises
    ------
    ConfigError
        If one is of another type or out of bounds.
    """

    dataset: Dataset | None = None
    candidates: Count = 50
    candidate_counts: Annotated[tuple[Count, ...], Field(min_length=1)] = (10, 50)
    depth: Count = 200
    max_candidate_tokens: Count | None = None
    max_history_tokens: Count | None = None
    train_sample: Annotated[int, Field(ge=2)] = 200
    batch_size: Count = 8
    seed: Seed = 0
    resamples: Count = 10_000
    level: Level = 0.95

    def __post_init__(self) -> None:
        check_fields(self)
