"""Stated probabilities against outcomes, and the weight of an item expert's word fitted on predictions."""

import json
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from reges_index.cli.app import app
from reges_index.dialogue import Turn
from reges_index.errors import InputError
from reges_index.evaluation.calibration import (
    BINS,
    calibrate,
    calibration_of,
    cases_of,
    fit_prior_weight,
)
from reges_index.evaluation.predictions import Prediction, align
from reges_index.evaluation.report import write_report
from reges_index.evaluation.scoring import evaluate_systems
from reges_index.evaluation.settings import EvaluationSettings
from reges_index.item_expert.prior import combine


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


# -- the weight of an item expert

USED = 2.5


def rows(true_weight, turns=600, size=12, seed=0):
    """Predictions made with the weight 2.5 of a model whose evidence is worth another one."""
    draw = random.Random(seed)
    predictions, asked = [], []
    for number in range(turns):
        raw = [draw.expovariate(1) for _ in range(size)]
        prior = [0.6 * value / sum(raw) for value in raw]
        evidence = [draw.gauss(0, 1) for _ in range(size)]
        posterior = combine(prior, evidence, true_weight)
        true = draw.choices([*range(size), None], [*posterior, 1 - sum(posterior)])[0]
        said = combine(prior, evidence, USED)
        order = sorted(range(size), key=lambda n: -said[n])
        ids = [f"i{n}" for n in order]
        predictions.append(
            {"id": f"t{number}", "ranking": ids, "probabilities": [said[n] for n in order],
             "prior": [prior[n] for n in order], "prior_weight": USED}
        )  # fmt: skip
        targets = ["elsewhere" if true is None else f"i{true}"]
        asked.append({"id": f"t{number}", "dialog_id": f"d{number // 3}", "targets": targets,
                      "messages": [{"role": "user", "content": "hello"}]})  # fmt: skip
    return predictions, asked


@pytest.mark.parametrize("true_weight", [0.0, 0.5, 1.5])
def test_the_weight_is_found_and_probabilities_mean_what_they_say(true_weight):
    predictions, asked = rows(true_weight)
    cases, used = cases_of([Prediction(**row) for row in predictions], [Turn(**row) for row in asked])
    found = fit_prior_weight(cases, used)
    assert (used, len(cases)) == (USED, 600)
    assert found.weight == pytest.approx(true_weight, abs=0.25)
    assert found.after.error < found.before.error
    assert math.isclose(found.after.stated, found.after.right, abs_tol=0.05)


def test_predictions_without_a_prior_are_refused():
    predictions, asked = rows(1.0, turns=20)
    turns = [Turn(**row) for row in asked]
    with pytest.raises(InputError, match="no turn with prior"):
        cases_of([Prediction(**{**row, "prior": None}) for row in predictions], turns)
    changed = [{**predictions[0], "prior_weight": 1.0}, *predictions[1:]]
    with pytest.raises(InputError, match="several weights"):
        cases_of([Prediction(**row) for row in changed], turns)
    cases, used = cases_of([Prediction(**row) for row in predictions[:3]], turns)
    with pytest.raises(InputError, match="too few"):
        fit_prior_weight(cases, used)


def test_the_command(tmp_path):
    predictions, asked = rows(0.5, turns=90)
    made, turns = tmp_path / "made.jsonl", tmp_path / "turns.jsonl"
    made.write_text("".join(json.dumps(row) + "\n" for row in predictions))
    turns.write_text("".join(json.dumps(row) + "\n" for row in asked))
    run = CliRunner().invoke(
        app, ["finetune", "calibrate", str(made), "--conversations", str(turns), "--json"]
    )
    assert run.exit_code == 0, run.output
    told = json.loads(run.stdout)
    assert told["prior_weight"] == pytest.approx(0.5, abs=0.4)
    assert set(told) >= {"turns", "error_before", "error_after", "used_before"}
