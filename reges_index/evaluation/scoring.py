"""Systems and baselines scored on the same pairs, under both protocols."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from reges_index.errors import InputError
from reges_index.evaluation.baselines import BASELINES, RetrieveBatch, baseline_predictions
from reges_index.evaluation.data import EvaluationData
from reges_index.evaluation.metrics import (
    METRICS,
    PROTOCOLS,
    Pairs,
    PairScores,
    ProtocolName,
    make_pairs,
    score_pairs,
)
from reges_index.evaluation.predictions import AlignedPredictions
from reges_index.evaluation.result import PaperValue, Row
from reges_index.evaluation.settings import EvaluationSettings
from reges_index.evaluation.stats import Averaging, ClusterBootstrap, Comparison, Estimate, compare_pairs


@dataclass(frozen=True)
class Evaluation:
    """All systems on one data set.

    Attributes
    ----------
    systems
        Baselines last.
    missing_baselines
        Baselines that could not run, with the reason.
    pairs, scores
        By protocol, and scores by the system's name within it. A protocol without a pair has no scores.
    """

    data: EvaluationData
    systems: tuple[AlignedPredictions, ...]
    missing_baselines: dict[str, str]
    settings: EvaluationSettings
    pairs: dict[ProtocolName, Pairs]
    scores: dict[ProtocolName, dict[str, PairScores]]

    def _bootstrap(self, protocol: ProtocolName) -> ClusterBootstrap:
        return ClusterBootstrap(
            self.pairs[protocol].dialogue, **self.settings.model_dump(include={"resamples", "seed", "level"})
        )

    def estimates(
        self, protocol: ProtocolName, averaging: Averaging = "target"
    ) -> dict[str, dict[str, Estimate]]:
        """Return value and interval of every metric for every system; empty without a pair."""
        scores = self.scores.get(protocol)
        if scores is None:
            return {}
        bootstrap = self._bootstrap(protocol)
        return {
            name: dict(zip(METRICS, bootstrap.estimate(own.values, averaging), strict=True))
            for name, own in scores.items()
        }

    def rows(
        self,
        metrics: Mapping[str, str],
        setting: str = "",
        *,
        paper: PaperValue | None = None,
        averaging: Averaging = "target",
        part: str = "",
    ) -> list[Row]:
        """Return a row for each system, protocol and metric.

        Parameters
        ----------
        metrics
            Name in `metrics.METRICS` to the name in the table.
        paper
            Stands beside the protocol ``all`` only: the paper does not take repeated items out.
        """
        rows = []
        for protocol in self.scores:
            count = self.pairs[protocol].counts["pairs"]
            for system, estimates in self.estimates(protocol, averaging).items():
                for metric, shown in metrics.items():
                    theirs = paper(system, metric) if paper and protocol == "all" else (None, "")
                    e = estimates[metric]
                    row = Row(system, setting, protocol, shown, e.value, count, e.low, e.high, *theirs, part)
                    rows.append(row)
        return rows

    def compare(
        self,
        pairs: Sequence[tuple[str, str]],
        metrics: Mapping[str, str],
        setting: str = "",
        *,
        paper_gain: Callable[[str, str], float | None] | None = None,
    ) -> list[Comparison]:
        """Test pairs of systems, averaged over targets; metrics are as for `rows`.

        Holm's adjustment is over these pairs: the tests that are shown, not all that could be made.

        Parameters
        ----------
        paper_gain
            From the second system and the metric (as in `metrics.METRICS`) to the paper's relative gain.
        """
        inside = {shown: metric for metric, shown in metrics.items()}

        def theirs(second: str, shown: str) -> float | None:
            return paper_gain(second, inside[shown]) if paper_gain else None

        columns = {shown: METRICS.index(metric) for metric, shown in metrics.items()}
        found: list[Comparison] = []
        for protocol, scores in self.scores.items():
            found += compare_pairs(
                self._bootstrap(protocol),
                {name: own.values for name, own in scores.items()},
                pairs, columns, setting=setting, protocol=protocol,
                paper_gain=theirs if protocol == "all" else None,
            )  # fmt: skip
        return found

    def every_pair(self) -> list[tuple[str, str]]:
        """Return all pairs of systems but those of two baselines: each test makes Holm's bar higher."""
        names = [system.name for system in self.systems]
        return [(a, b) for a, b in combinations(names, 2) if a not in BASELINES or b not in BASELINES]


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
        If two systems share a name, or have a baseline's.
    """
    names = [system.name for system in systems]
    for system in systems:
        wrong = ""
        if system.name in BASELINES:
            wrong = f"{system.name!r} is a baseline's name"
        elif names.count(system.name) > 1:
            wrong = f"two systems are called {system.name!r}"
        if wrong:
            raise InputError(wrong, hint="name them: --predictions NAME=FILE")
    plain, missing = baseline_predictions(data, retrieve=retrieve) if baselines else ([], {})
    pairs = {protocol: make_pairs(data.turns, protocol, data.positions) for protocol in PROTOCOLS}
    scores = {
        protocol: {
            system.name: score_pairs(own, system.rankings, data.positions, system.recommended)
            for system in (*systems, *plain)
        }
        for protocol, own in pairs.items()
        if own.target
    }
    return Evaluation(data, (*systems, *plain), missing, settings or EvaluationSettings(), pairs, scores)
