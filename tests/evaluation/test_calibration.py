"""Stated probabilities against outcomes."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reges_index.evaluation.calibration import BINS, calibrate, calibration_of
from reges_index.evaluation.predictions import Prediction, align
from reges_index.evaluation.report import write_report
from reges_index.evaluation.scoring import evaluate_systems
from reges_index.evaluation.settings import EvaluationSettings


def test_honest_probabilities_have_a_small_error_and_boasts_a_large_one():
    rng = np.random.default_rng(0)
    chance = rng.uniform(0, 1, 20_000)
    right = rng.uniform(0, 1, 20_000) < chance
    turns = np.arange(20_000)
    honest = calibrate(chance, right, turns, resamples=20)
    assert honest.error < 0.015
    boast = calibrate(np.full(20_000, 0.9), right, turns, resamples=20)
    assert boast.error == pytest.approx(0.9 - right.mean())
    assert boast.low <= boast.error <= boast.high


def test_by_hand():
    # Ten turns, ten bins of one turn each: the error is the mean distance.
    stated = [n / 10 for n in range(10)]
    right = [0, 1] * 5
    found = calibrate(stated, right, range(10), resamples=5)
    assert found.error == pytest.approx(np.mean([abs(s - r) for s, r in zip(stated, right, strict=True)]))
    assert [b.turns for b in found.bins] == [1] * BINS


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.integers(0, 3)), min_size=1, max_size=40),
)
def test_bins_hold_every_turn_once_and_the_error_is_a_probability(rows):
    stated, right, dialogues = zip(*rows, strict=True)
    found = calibrate(stated, right, dialogues, resamples=3)
    assert sum(b.turns for b in found.bins) == found.turns == len(rows)
    assert 0 <= found.error <= 1
    assert sum(b.right * b.turns for b in found.bins) == pytest.approx(sum(right))


def test_nothing_to_judge_is_refused():
    with pytest.raises(ValueError, match="no stated"):
        calibrate([], [], [])


def test_reports_have_it_where_a_system_states_probabilities(data, tmp_path):
    items = [item.id for item in data.items]
    first = [turn.targets[0] if n % 2 else items[7] for n, turn in enumerate(data.turns)]
    sure = [
        Prediction(id=turn.id, ranking=(pick,), probabilities=(0.8,))
        for turn, pick in zip(data.turns, first, strict=True)
    ]
    silent = [Prediction(id=turn.id, ranking=(items[0],)) for turn in data.turns]
    systems = [align("sure", sure, data), align("silent", silent, data)]
    evaluation = evaluate_systems(data, systems, settings=EvaluationSettings(resamples=100))
    # The last turn has no target at all, so it says nothing about what is right.
    judged = [(pick, t) for pick, t in zip(first, data.turns, strict=True) if t.targets]
    expected = np.mean([pick in t.targets for pick, t in judged])
    found = calibration_of(systems[0], data, resamples=50, seed=0, level=0.95)
    assert found.turns == len(judged) == len(data.turns) - 1
    assert found.right == pytest.approx(expected)
    nowhere = align("nowhere", sure[-1:], data)
    assert calibration_of(nowhere, data, resamples=50, seed=0, level=0.95) is None
    summary = write_report(evaluation, tmp_path)
    assert summary["systems"]["silent"]["calibration"] is None
    assert (
        json.loads((tmp_path / "report.json").read_text())["systems"]["sure"]["calibration"]["stated"] == 0.8
    )
    assert (tmp_path / "reliability.png").read_bytes()[:4] == b"\x89PNG"
    assert "expected calibration error" in (tmp_path / "report.md").read_text()
    plain = evaluate_systems(data, systems[1:], settings=EvaluationSettings(resamples=100))
    write_report(plain, tmp_path / "plain")
    assert not (tmp_path / "plain" / "reliability.png").exists()
