"""From predictions to rows: both protocols, intervals, and paired differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from reges_index.evaluation.data import EvaluationData
from reges_index.evaluation.experiments.lab import Lab
from reges_index.evaluation.experiments.result import ComparisonRow, Row
from reges_index.evaluation.predictions import Prediction, align
from reges_index.evaluation.protocol import ProtocolName
from reges_index.evaluation.scoring import Evaluation, Settings, evaluate_systems
from reges_index.evaluation.stats import holm

__all__ = ["PaperValue", "compared", "measured", "rows_of"]

PaperValue: TypeAlias = Callable[[str, str], tuple[float | None, str]]
"""From a system's name and a metric to the paper's value and what it is of."""


def measured(
    lab: Lab,
    predictions: Mapping[str, Sequence[Prediction]],
    *,
    data: EvaluationData | None = None,
    baselines: bool = False,
) -> Evaluation:
    """Score predictions by system with the lab's settings.

    Parameters
    ----------
    data
        Other turns than the lab's; not with ``baselines``.
    baselines
        Whether the baselines stand beside them; the retriever's is its run for the whole dialogue.
    """
    data = data or lab.data
    s = lab.settings

    def retrieve(_queries: list[str], top_k: int) -> list[list[str]]:
        found = lab.shown(top_k, "original")
        return [found[turn.id] for turn in lab.data.turns]

    return evaluate_systems(
        data,
        [align(name, made, data, matcher=lab.matcher) for name, made in predictions.items()],
        settings=Settings(s.resamples, s.seed, s.level, s.candidates),
        retrieve=retrieve if baselines else None,
        baselines=baselines,
    )


def rows_of(
    evaluation: Evaluation,
    metrics: Mapping[str, str],
    setting: str,
    *,
    paper: PaperValue | None = None,
    protocols: Sequence[ProtocolName] = ("all", "new"),
) -> list[Row]:
    """Return a row for each system, protocol and metric, averaged over targets.

    Parameters
    ----------
    metrics
        Name in `metrics.METRICS` to the name in the table.
    paper
        Stands beside the protocol ``all`` only: the paper does not take repeated items out.
    """
    rows = []
    for protocol in protocols:
        for system, estimates in evaluation.estimates(protocol).items():
            for metric, shown in metrics.items():
                theirs, of = paper(system, metric) if paper and protocol == "all" else (None, "")
                e = estimates[metric]
                count = evaluation.pairs[protocol].counts.pairs
                rows.append(Row(system, setting, protocol, shown, e.value, count, e.low, e.high, theirs, of))
    return rows


def compared(
    evaluation: Evaluation,
    pairs: Sequence[tuple[str, str]],
    metrics: Mapping[str, str],
    setting: str,
    *,
    paper_gain: Callable[[str, str], float | None] | None = None,
    protocols: Sequence[ProtocolName] = ("all", "new"),
) -> list[ComparisonRow]:
    """Return the paired difference and the relative gain of the first system over the second.

    Holm's adjustment is over these pairs, for each protocol and metric: the tests that are shown, not all
    that the evaluation could make.

    Parameters
    ----------
    paper_gain
        From the second system's name and the metric to the paper's relative gain.
    """
    rows = []
    for protocol in protocols:
        estimates = evaluation.estimates(protocol)
        found = {(c.first, c.second, c.metric): (c.difference, 1) for c in evaluation.comparisons(protocol)}
        found |= {(b, a, m): (d, -1) for (a, b, m), (d, _) in list(found.items())}
        tested = [(a, b, m) for a, b in pairs for m in metrics if (a, b, m) in found]
        adjusted: dict[tuple[str, str, str], float] = {}
        for metric in metrics:
            own = [key for key in tested if key[2] == metric]
            adjusted |= zip(own, holm([found[key][0].p for key in own]), strict=True)
        for key in tested:
            first, second, metric = key
            d, sign = found[key]
            base = estimates[second][metric].value
            ends = sorted((sign * d.low, sign * d.high))
            value = sign * d.value
            gain = value / base if base else None
            theirs = paper_gain(second, metric) if paper_gain and protocol == "all" else None
            row = ComparisonRow(
                first, second, setting, protocol, metrics[metric], value, ends[0], ends[1],
                p=d.p, p_holm=adjusted[key], gain=gain, paper_gain=theirs,
            )  # fmt: skip
            rows.append(row)
    return rows
