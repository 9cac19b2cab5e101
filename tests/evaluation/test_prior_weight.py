"""The weight of an item expert's word, fitted on predictions: a model of known quality gets its due."""

import json
import math
import random

import pytest
from typer.testing import CliRunner

from reges_index.cli.app import app
from reges_index.dialogue import Turn
from reges_index.errors import InputError
from reges_index.evaluation.predictions import Prediction
from reges_index.evaluation.prior_weight import cases_of, fit_prior_weight
from reges_index.item_expert.prior import combine

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
    assert (used, found.turns) == (USED, 600)
    assert found.weight == pytest.approx(true_weight, abs=0.25)
    assert found.after.error < found.before.error
    assert math.isclose(found.after.stated, found.after.right, abs_tol=0.05)


def test_predictions_without_a_prior_are_refused():
    predictions, asked = rows(1.0, turns=20)
    turns = [Turn(**row) for row in asked]
    with pytest.raises(InputError, match="no turn with a prior"):
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
