"""Intervals and paired tests over dialogues: turns of one dialogue are not independent of one another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Averaging: TypeAlias = Literal["target", "dialogue"]
"""``target``: every (turn, target) pair counts the same. ``dialogue``: every dialogue does."""

_CHUNK = 4_000_000  # doubles held at once (32 MB)


@dataclass(frozen=True)
class Estimate:
    """A mean and its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Estimate):
    """System A minus system B on the same pairs: difference, its interval, and the p-value."""

    p: float


class ClusterBootstrap:
    """Percentile bootstrap that draws whole dialogues (D of them, with replacement).

    Averaged over targets, a statistic is a ratio of two sums over dialogues, hits over pairs, and both are
    drawn together. The same draws serve every metric and system, which is what makes differences paired.

    Parameters
    ----------
    clusters
        Shape (P,): dialogue of each pair, 0 to D-1.
    resamples
        Number of bootstrap samples.
    seed
        Of numpy's default generator. With it the interval equals that of ``scipy.stats.bootstrap(...,
        method="percentile", paired=True, rng=seed)`` on the same sums.
    level
        Of the interval.

    Raises
    ------
    ValueError
        If there is no pair.
    """

    def __init__(
        self, clusters: NDArray[np.int64], *, resamples: int = 10_000, seed: int = 0, level: float = 0.95
    ) -> None:
        if not clusters.size:
            raise ValueError("no pair to average over")
        self.clusters = clusters
        self.count = int(clusters.max()) + 1
        self.sizes = np.bincount(clusters, minlength=self.count).astype(np.float64)
        self.resamples, self.seed, self.level = resamples, seed, level

    def _parts(
        self, values: NDArray[np.float64], averaging: Averaging
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return numerators (D, M) and denominators (D,) whose sums' ratio is the statistic."""
        totals = np.zeros((self.count, values.shape[1]))
        np.add.at(totals, self.clusters, values)
        if averaging == "dialogue":
            return totals / self.sizes[:, None], np.ones(self.count)
        return totals, self.sizes

    def distribution(self, values: NDArray[np.float64], averaging: Averaging) -> NDArray[np.float64]:
        """Return the statistic on each resample: values (P, M) in, (resamples, M) out."""
        above, below = self._parts(values, averaging)
        rng = np.random.default_rng(self.seed)
        step = max(1, _CHUNK // self.count)
        parts = []
        for start in range(0, self.resamples, step):
            rows = min(step, self.resamples - start)
            drawn = rng.integers(0, self.count, (rows, self.count))
            flat = (drawn + np.arange(rows)[:, None] * self.count).ravel()
            weights = np.bincount(flat, minlength=rows * self.count).reshape(rows, self.count)
            parts.append((weights @ above) / (weights @ below)[:, None])
        return np.concatenate(parts)

    def estimate(self, values: NDArray[np.float64], averaging: Averaging = "target") -> list[Estimate]:
        """Return mean and interval for each of M columns of ``values``, shape (P, M)."""
        above, below = self._parts(values, averaging)
        means = above.sum(axis=0) / below.sum()
        tail = (1 - self.level) / 2
        low, high = np.quantile(self.distribution(values, averaging), [tail, 1 - tail], axis=0)
        return [Estimate(float(m), float(a), float(b)) for m, a, b in zip(means, low, high, strict=True)]

    def compare(
        self, first: NDArray[np.float64], second: NDArray[np.float64], averaging: Averaging = "target"
    ) -> list[Difference]:
        """Compare two systems on the same pairs, both (P, M): differences, intervals and p-values.

        The interval is the paired bootstrap's; the p-value is the sign-flip test's (`sign_flip_test`).
        """
        gap = first - second
        above, _ = self._parts(gap, averaging)
        estimates = self.estimate(gap, averaging)
        p_values = sign_flip_test(above, resamples=self.resamples, seed=self.seed)
        return [
            Difference(e.value, e.low, e.high, float(p)) for e, p in zip(estimates, p_values, strict=True)
        ]


def sign_flip_test(gaps: NDArray[np.float64], *, resamples: int, seed: int) -> NDArray[np.float64]:
    """Two-sided paired permutation test: the two systems swap places within each dialogue.

    Exact (all 2**D swaps) where that is no more than ``resamples``, else by random swaps with the
    observed one counted in, so that p is never 0. Equals ``scipy.stats.permutation_test`` with
    ``permutation_type="samples"``.

    Parameters
    ----------
    gaps
        Shape (D, M): first minus second, summed (or averaged) within each dialogue.

    Returns
    -------
    p-values, shape (M,).
    """
    count = len(gaps)
    observed = np.abs(gaps.sum(axis=0))
    # Sums in another order differ in the last bits; equal ones must count as equal.
    bar = observed - 1e-9 * np.maximum(observed, 1e-3)
    exact = count < 31 and 2**count <= resamples
    total = 2**count if exact else resamples
    rng = np.random.default_rng(seed)
    as_extreme = np.zeros(gaps.shape[1])
    step = max(1, _CHUNK // max(count, 1))
    for start in range(0, total, step):
        rows = min(step, total - start)
        if exact:
            bits = (np.arange(start, start + rows)[:, None] >> np.arange(count)) & 1
        else:
            bits = rng.integers(0, 2, (rows, count))
        flipped: NDArray[np.float64] = (1.0 - 2.0 * bits) @ gaps
        as_extreme += (np.abs(flipped) >= bar).sum(axis=0)
    p: NDArray[np.float64] = as_extreme / total if exact else (as_extreme + 1) / (total + 1)
    return p


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for having made several tests (Holm 1979), order kept."""
    p, count = np.asarray(p_values, dtype=np.float64), len(p_values)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate((count - np.arange(count)) * p[order]))
    return [float(value) for value in adjusted]


@dataclass(frozen=True)
class Comparison:
    """A system against another on the same pairs: first minus second, and the relative gain.

    ``p_holm`` allows for all pairs of systems that stand in the same table (setting, protocol, metric).
    """

    first: str
    second: str
    setting: str
    protocol: str
    metric: str
    value: float
    low: float
    high: float
    p: float
    p_holm: float
    gain: float | None
    paper_gain: float | None = None


def compare_pairs(
    bootstrap: ClusterBootstrap,
    values: Mapping[str, NDArray[np.float64]],
    pairs: Sequence[tuple[str, str]],
    metrics: Mapping[str, int],
    *,
    setting: str = "",
    protocol: str = "",
    paper_gain: Callable[[str, str], float | None] | None = None,
) -> list[Comparison]:
    """Test pairs of systems against each other, with Holm's adjustment over these pairs for each metric.

    Parameters
    ----------
    values
        System to its values, shape (P, M).
    metrics
        Name of a metric to its column in the values.
    paper_gain
        From the second system and the metric to the relative gain that the paper has.
    """
    columns = list(metrics.values())
    rows = []
    for first, second in pairs:
        found = bootstrap.compare(values[first][:, columns], values[second][:, columns])
        for (metric, column), d in zip(metrics.items(), found, strict=True):
            base = float(values[second][:, column].mean())
            rows.append(
                Comparison(
                    first, second, setting, protocol, metric, d.value, d.low, d.high, d.p, p_holm=d.p,
                    gain=d.value / base if base else None,
                    paper_gain=paper_gain(second, metric) if paper_gain else None,
                )
            )  # fmt: skip
    return adjusted(rows)


def adjusted(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return comparisons with Holm's p over those of the same setting, protocol and metric, order kept."""
    families: dict[tuple[str, str, str], list[int]] = {}
    for place, c in enumerate(comparisons):
        families.setdefault((c.setting, c.protocol, c.metric), []).append(place)
    found = list(comparisons)
    for places in families.values():
        for place, p in zip(places, holm([comparisons[n].p for n in places]), strict=True):
            found[place] = replace(comparisons[place], p_holm=p)
    return found
