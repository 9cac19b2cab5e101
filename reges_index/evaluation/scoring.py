"""Systems and baselines scored on the same pairs, under both protocols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from reges_index.errors import InputError
from reges_index.evaluation.baselines import BASELINES, RetrieveBatch, baseline_predictions
from reges_index.evaluation.data import EvaluationData
from reges_index.evaluation.metrics import METRICS, PairScores, score_pairs
from reges_index.evaluation.predictions import AlignedPredictions
from reges_index.evaluation.protocol import PROTOCOLS, Pairs, ProtocolName, make_pairs
from reges_index.evaluation.settings import EvaluationSettings
from reges_index.evaluation.stats import Averaging, ClusterBootstrap, Difference, Estimate, holm

__all__ = ["Comparison", "Evaluation", "evaluate_systems"]


@dataclass(frozen=True)
class Comparison:
    """One metric of two systems on the same pairs; ``p_holm`` allows for all pairs of systems tested."""

    first: str
    second: str
    metric: str
    difference: Difference
    p_holm: float


@dataclass(frozen=True)
class Evaluation:
    """All systems on one data set.

    Attributes
    ----------
    systems
        Baselines last.
    baselines
        Names of those that are baselines.
    missing_baselines
        Baselines that could not run, with the reason.
    pairs, scores
        By protocol, and scores by the system's name within it. A protocol without a pair has no scores.
    """

    data: EvaluationData
    systems: tuple[AlignedPredictions, ...]
    baselines: frozenset[str]
    missing_baselines: dict[str, str]
    settings: EvaluationSettings
    pairs: dict[ProtocolName, Pairs]
    scores: dict[ProtocolName, dict[str, PairScores]]

    def _bootstrap(self, protocol: ProtocolName) -> ClusterBootstrap:
        s = self.settings
        return ClusterBootstrap(
            self.pairs[protocol].dialogue, resamples=s.resamples, seed=s.seed, level=s.level
        )

    def estimates(
        self, protocol: ProtocolName, averaging: Averaging = "target"
    ) -> dict[str, dict[str, Estimate]]:
        """Return value and interval of every metric for every system; empty without a pair."""
        if not self.pairs[protocol].target:
            return {}
        bootstrap = self._bootstrap(protocol)
        return {
            name: dict(zip(METRICS, bootstrap.estimate(scores.values, averaging), strict=True))
            for name, scores in self.scores[protocol].items()
        }

    def comparisons(self, protocol: ProtocolName) -> list[Comparison]:
        """Compare all systems with one another and with the baselines, averaged over targets.

        Baselines are not compared among themselves: nobody asks, and each test makes Holm's bar higher.
        """
        if not self.pairs[protocol].target:
            return []
        bootstrap = self._bootstrap(protocol)
        scores = self.scores[protocol]
        found = [
            (a.name, b.name, bootstrap.compare(scores[a.name].values, scores[b.name].values))
            for a, b in combinations(self.systems, 2)
            if not (a.name in self.baselines and b.name in self.baselines)
        ]
        made = []
        for column, metric in enumerate(METRICS):
            adjusted = holm([differences[column].p for _, _, differences in found])
            made += [
                Comparison(first, second, metric, differences[column], p)
                for (first, second, differences), p in zip(found, adjusted, strict=True)
            ]
        return made


def evaluate_systems(
    data: EvaluationData,
    systems: Sequence[AlignedPredictions] = (),
    *,
    settings: EvaluationSettings | None = None,
    retrieve: RetrieveBatch | None = None,
    baselines: bool = True,
) -> Evaluation:
    """Score systems and the baselines under both protocols.

    Parameters
    ----------
    systems
        Aligned with ``data`` (`predictions.align`).
    settings
        None for the defaults.
    retrieve
        The dense retriever for the baseline of that name; None leaves it out, and the report says so.
    baselines
        Whether to run the baselines at all; an experiment with its own comparison needs none.

    Raises
    ------
    InputError
        If two systems share a name, have a baseline's, or were aligned with other turns.
    """
    names = [system.name for system in systems]
    for name in names:
        if names.count(name) > 1 or name in BASELINES:
            raise InputError(
                f"two systems are called {name!r}"
                if name not in BASELINES
                else f"{name!r} is a baseline's name",
                hint="name them: --predictions NAME=FILE",
            )
    for system in systems:
        if len(system.rankings) != len(data.turns):
            raise InputError(
                f"{system.name}: aligned with {len(system.rankings)} turns, not {len(data.turns)}"
            )
    plain, missing = baseline_predictions(data, retrieve=retrieve) if baselines else ([], {})
    everything = (*systems, *plain)
    pairs = {protocol: make_pairs(data.turns, protocol, data.positions) for protocol in PROTOCOLS}
    scores = {
        protocol: {
            system.name: score_pairs(pairs[protocol], system.rankings, data.positions, system.recommended)
            for system in everything
        }
        for protocol in PROTOCOLS
        if pairs[protocol].target
    }
    return Evaluation(
        data=data,
        systems=everything,
        baselines=frozenset(system.name for system in plain),
        missing_baselines=missing,
        settings=settings or EvaluationSettings(),
        pairs=pairs,
        scores=scores,
    )
