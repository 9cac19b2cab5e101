from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from reges_index.evaluation.stats import ClusterBootstrap, holm, sign_flip_test


def made(seed: int, dialogues: int = 25):
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(dialogues), rng.integers(1, 6, dialogues))
    values = (rng.random((len(clusters), 2)) < (0.3, 0.5)).astype(float)
    return clusters, values


@pytest.mark.parametrize("seed", range(4))
def test_the_interval_is_scipys_on_the_same_samples(seed):
    clusters, values = made(seed)
    hits = np.bincount(clusters, weights=values[:, 0])
    sizes = np.bincount(clusters).astype(float)
    theirs = stats.bootstrap(
        (hits, sizes),
        lambda above, below, axis: above.sum(axis=axis) / below.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    ours = ClusterBootstrap(clusters, resamples=2000, seed=seed).estimate(values)[0]
    assert ours.value == pytest.approx(values[:, 0].mean(), abs=1e-12)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=1e-9)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=1e-9)


def test_whole_dialogues_are_drawn():
    # Two hundred copies of each outcome in a dialogue add nothing that is known about other dialogues.
    clusters, values = made(3)
    few = ClusterBootstrap(clusters, seed=0).estimate(values)[0]
    many = ClusterBootstrap(np.tile(clusters, 200), seed=0).estimate(np.tile(values, (200, 1)))[0]
    assert (many.low, many.high) == pytest.approx((few.low, few.high))


def test_the_exact_p_value_is_scipys():
    gaps = np.random.default_rng(0).normal(0.4, 1, (10, 3))
    ours = sign_flip_test(gaps, resamples=5000, seed=0)
    for column in range(3):
        theirs = stats.permutation_test(
            (gaps[:, column], np.zeros(10)),
            lambda a, b, axis: (a - b).sum(axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=np.inf,
        )
        assert ours[column] == pytest.approx(theirs.pvalue, abs=1e-12)


def test_the_random_p_value_comes_close_to_the_exact_one():
    gaps = np.random.default_rng(2).normal(0.3, 1, (14, 1))
    exact = sign_flip_test(gaps, resamples=2**14, seed=0)
    drawn = sign_flip_test(gaps, resamples=2**14 - 1, seed=0)
    assert drawn != pytest.approx(exact, abs=1e-12)
    assert drawn == pytest.approx(exact, abs=0.015)


def test_equal_systems_have_p_one_and_no_difference():
    clusters, values = made(1)
    same = ClusterBootstrap(clusters).compare(values, values)[0]
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_a_system_that_always_wins_differs():
    clusters, values = made(1)
    better = ClusterBootstrap(clusters).compare(np.ones_like(values), values)[0]
    assert better.low > 0
    assert better.p < 1e-3
    worse = ClusterBootstrap(clusters).compare(values, np.ones_like(values))[0]
    assert worse.high == pytest.approx(-better.low)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        clusters = np.repeat(np.arange(60), 3)
        quality = np.clip(rng.normal(0.4, 0.2, 60), 0, 1)  # dialogues differ
        values = (rng.random(180) < quality[clusters]).astype(float)[:, None]
        interval = ClusterBootstrap(clusters, resamples=500, seed=trial).estimate(values)[0]
        held += interval.low <= 0.4 <= interval.high
    assert 0.88 <= held / 200 <= 0.99


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []
