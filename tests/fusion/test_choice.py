"""The final choice: fused, calibrated, and honest when it has nothing to fuse."""

import numpy as np
import pytest
from llama_index.core.schema import NodeWithScore

from reges_index.errors import InputError, TrainingError
from reges_index.fusion.calibration import calibration
from reges_index.fusion.choice import ChoiceWeights, choose, combine
from reges_index.fusion.fit_choice import Choice, cross_fit, fit_choice
from reges_index.item_expert.rerank import RankedCandidate, Ranking

from .films import FILMS


def ranking(scores, logprobs):
    return Ranking(
        tuple(
            RankedCandidate(item, n, None, logprob, score, n, NodeWithScore(node=item.to_node(), score=score))
            for n, (item, score, logprob) in enumerate(zip(FILMS, scores, logprobs, strict=False), 1)
        ),
        {"rerank": {"candidates": len(scores)}},
    )


def test_the_weights_decide_whom_to_believe():
    told = ranking([0.6, 0.3, 0.1], [-9.0, -1.0, -5.0])
    by_retrieval = choose(ChoiceWeights(1.0, 0.0), told)
    by_model = choose(ChoiceWeights(0.0, 1.0), told)
    assert [c.item.id for c in by_retrieval.candidates] == ["f1", "f2", "f3"]
    assert [c.item.id for c in by_model.candidates] == ["f2", "f3", "f1"]
    assert by_model.report["choice"] == {"fused": True, "first_changed": 1}
    assert by_model.report["rerank"] == {"candidates": 3}
    for made in (by_retrieval, by_model):
        assert sum(c.probability for c in made.candidates) == pytest.approx(1)
        assert [c.rank for c in made.candidates] == [1, 2, 3]
        assert [c.node.score for c in made.candidates] == [c.probability for c in made.candidates]
    assert told.candidates[0].node.score == 0.6  # the nodes that came in are as they were


def test_without_logprobs_nothing_changes():
    told = ranking([0.6, 0.4], [None, None])
    kept = choose(ChoiceWeights(1.0, 1.0), told)
    assert kept.candidates == told.candidates
    assert kept.report["choice"] == {"fused": False}
    assert choose(ChoiceWeights(), Ranking((), {})).candidates == ()


@pytest.mark.parametrize("score", [None, 1.5, -0.2])
def test_another_retrievers_scores_are_refused(score):
    with pytest.raises(InputError, match="FusionRetriever"):
        choose(ChoiceWeights(), ranking([0.5, score], [-1.0, -2.0]))


def simulated(count, temperature, trust, seed=0):
    """Turns whose targets are drawn from the very model that is to be found."""
    rng = np.random.default_rng(seed)
    made = []
    for n in range(count):
        retrieval = rng.dirichlet(np.ones(6))
        logprobs = rng.normal(0, 2, 6)
        chances = combine(ChoiceWeights(temperature, trust), retrieval.tolist(), logprobs.tolist())
        target = rng.choice(6, p=chances)
        made.append(
            Choice(f"d{n // 3}", tuple(retrieval), tuple(logprobs), tuple(i == target for i in range(6)))
        )
    return made


def test_the_fit_finds_the_weights_that_made_the_data():
    found = fit_choice(simulated(4000, 0.7, 0.4))
    assert found.retrieval == pytest.approx(0.7, abs=0.06)
    assert found.model == pytest.approx(0.4, abs=0.04)


def test_without_logprobs_only_the_temperature_is_fitted():
    plain = [Choice(c.dialogue, c.retrieval, None, c.targets) for c in simulated(2000, 0.5, 0.0)]
    found = fit_choice(plain)
    assert found.model == 0
    assert found.retrieval == pytest.approx(0.5, abs=0.06)


def test_cross_fitted_probabilities_are_calibrated():
    choices = simulated(4000, 0.7, 0.4)
    made = cross_fit(choices)
    stated = [max(p) for p in made]
    hits = [choice.targets[int(np.argmax(p))] for choice, p in zip(choices, made, strict=True)]
    fitted = calibration(stated, hits)
    raw = calibration(
        [max(c.retrieval) for c in choices], [c.targets[int(np.argmax(c.retrieval))] for c in choices]
    )
    assert fitted.error < 0.03 < raw.error
    assert sum(count for _, _, count in fitted.bins) == 4000


def test_turns_without_a_target_teach_nothing():
    with pytest.raises(TrainingError, match="none of 1 turns"):
        fit_choice([Choice("d", (0.5, 0.5), None, (False, False))])
    with pytest.raises(TrainingError):
        calibration([], [])


@pytest.mark.parametrize("told", [-np.inf, np.nan])
def test_weights_that_are_no_numbers_are_refused(told):
    choices = [Choice(f"d{n}", (0.6, 0.4), (-1.0, told), (n % 2 == 0, n % 2 == 1)) for n in range(4)]
    with pytest.raises(TrainingError, match="no numbers"):
        fit_choice(choices)


def test_cross_fitting_needs_targets_in_two_dialogues():
    for other in ("d", "e"):
        choices = [
            Choice("d", (0.6, 0.4), None, (True, False)),
            Choice(other, (0.6, 0.4), None, (False,) * 2),
        ]
        with pytest.raises(TrainingError, match="are of one dialogue"):
            cross_fit(choices)
