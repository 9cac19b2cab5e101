"""How the experiments are run."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    dataset: Dataset | None = None
    candidates: int = 50
    candidate_counts: tuple[int, ...] = (50, 10)
    depth: int = 200
    max_candidate_tokens: int | None = None
    max_history_tokens: int | None = None
    train_sample: int = 200
    batch_size: int = 8
    seed: int = 0
    resamples: int = 10_000
    level: float = 0.95
