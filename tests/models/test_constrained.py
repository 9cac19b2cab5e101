import random

import pytest
import torch

from reges_index.models.scoring import choose_greedily
from tests.tiny import ARCHITECTURES, tiny_model

from .test_tree_scoring import random_choices


def choose_slowly(model, prompt, choices):
    """The same walk, with a whole forward for every token and no cache."""
    written = []
    while written not in choices:
        logits = model(torch.tensor([[*prompt, *written]])).logits[0, -1]
        going_on = [choice[len(written)] for choice in choices if choice[: len(written)] == written]
        written.append(max(going_on, key=lambda token, logits=logits: float(logits[token])))
    return choices.index(written)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_same_walk_as_without_a_cache(arch):
    model, rng = tiny_model(arch), random.Random(arch)
    for _ in range(15):
        prompt = [rng.randrange(3, 600) for _ in range(rng.randint(1, 40))]
        choices = random_choices(rng)
        with torch.inference_mode():
            expected = choose_slowly(model, prompt, choices)
            assert choose_greedily(model, prompt, choices) == expected
            assert choose_greedily(model, prompt, choices, cached=False) == expected


def test_forced_tokens_are_not_asked_about(monkeypatch):
    model = tiny_model()
    calls = []
    monkeypatch.setattr(model, "forward", _counting(model.forward, calls))
    with torch.inference_mode():
        choose_greedily(model, [5, 6, 7], [[10, 11, 12, 13, 2], [20, 21, 22, 23, 2]])
        assert len(calls) == 1  # one fork, at the root
        calls.clear()
        choose_greedily(model, [5, 6, 7], [[10, 11, 12, 2], [10, 11, 13, 2], [10, 11, 14, 2]])
        assert calls == [5]  # the prompt with the two shared tokens
        calls.clear()
        assert choose_greedily(model, [5, 6, 7], [[10, 2], [10, 2]]) == 0
        assert calls == []


def _counting(forward, calls):
    def counted(*args, **kwargs):
        calls.append(kwargs["input_ids"].shape[1])
        return forward(*args, **kwargs)

    return counted


def test_local_lm_returns_the_first_of_equal_choices(lm):
    assert lm.choose("A film:", ["Heat", "Heat", "Heat"]) == 0
    titles = ["Up", "Heat", "Alien", "Titanic"]
    chosen = titles[lm.choose("A film:", titles)]
    assert lm.choose("A film:", [*titles, chosen]) == titles.index(chosen)
