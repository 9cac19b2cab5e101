"""The tree equals separate forwards within 1e-3 nats in fp32: the claim that everything else rests on."""

import logging
import math
import random

import pytest
import torch
from llama_index.core.llms import ChatMessage

from reges_index.models.scoring import score_separately, score_tree, why_no_tree
from tests.tiny import ARCHITECTURES, SLIDING_WINDOW, tiny_lm, tiny_model

END = 2
WORDS = [
    "Alien",
    "Aliens",
    "Toy",
    "Story",
    "Heat",
    "Up",
    "The",
    "Matrix",
    "Reloaded",
    "2",
    "3",
    "(1979)",
    "of",
]


def random_choices(rng, vocabulary=600, size=20):
    """Token sequences full of shared beginnings, proper prefixes and duplicates, each with the end token."""
    choices = []
    for _ in range(rng.randint(1, size)):
        kind = rng.random()
        if choices and kind < 0.25:
            choices.append(list(rng.choice(choices)))
        elif choices and kind < 0.5:
            known = rng.choice(choices)[:-1]
            choices.append([*known[: rng.randint(0, len(known))], END])
        elif choices and kind < 0.75:
            known = rng.choice(choices)[:-1]
            extra = [rng.randrange(3, vocabulary) for _ in range(rng.randint(1, 4))]
            choices.append([*known[: rng.randint(0, len(known))], *extra, END])
        else:
            choices.append([*(rng.randrange(3, vocabulary) for _ in range(rng.randint(1, 8))), END])
    return choices


def random_titles(rng, size=20):
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 4))) for _ in range(rng.randint(1, size))]


def worst(left, right):
    assert [score.num_tokens for score in left] == [score.num_tokens for score in right]
    return max(abs(one.logprob - other.logprob) for one, other in zip(left, right, strict=True))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_tree_equals_separate_forwards(arch):
    model, rng = tiny_model(arch), random.Random(arch)
    assert why_no_tree(model) == ""
    for _ in range(40):
        # Shorter and longer than the sliding window, and such that the window's edge falls into the trie.
        prompt = [rng.randrange(3, 600) for _ in range(rng.randint(1, 3 * SLIDING_WINDOW))]
        choices = random_choices(rng)
        with torch.inference_mode():
            reference = score_separately(model, prompt, choices)
            assert worst(score_tree(model, prompt, choices), reference) < 1e-3
            assert worst(score_tree(model, prompt, choices, max_nodes=rng.randint(1, 5)), reference) < 1e-3


@pytest.mark.parametrize("arch", ["llama", "qwen3", "gemma3_text"])
def test_eager_attention_gives_the_same(arch):
    model, rng = tiny_model(arch), random.Random(7)
    choices, prompt = random_choices(rng), list(range(10, 50))
    with torch.inference_mode():
        expected = score_tree(model, prompt, choices)
        model.set_attn_implementation("eager")
        assert worst(score_tree(model, prompt, choices), expected) < 1e-3


def test_all_continuations_together_have_probability_one():
    model = tiny_model()
    with torch.inference_mode():
        scores = score_tree(model, [5, 6, 7], [[token] for token in range(600)])
    assert math.isclose(sum(math.exp(score.logprob) for score in scores), 1.0, rel_tol=1e-4)


@pytest.mark.parametrize("adapter", [None, "first", "second"])
def test_tree_equals_separate_forwards_under_adapters(adapted, adapter):
    rng = random.Random(11)
    for _ in range(10):
        choices = random_titles(rng)
        prompt = [ChatMessage(role="user", content=" ".join(rng.choices(WORDS, k=30)))]
        ids, answers = adapted.encode(prompt), [adapted.encode_answer(choice) for choice in choices]
        scores = adapted.score(prompt, choices, adapter=adapter)
        with adapted._using(adapter), torch.inference_mode():
            assert worst(scores, score_separately(adapted.model, ids, answers)) < 1e-3


@pytest.mark.slow
def test_tree_equals_separate_forwards_on_the_embedded_model(embedded):
    rng = random.Random(5)
    for _ in range(2):
        choices = random_titles(rng, size=8)
        prompt = [ChatMessage(role="user", content="I liked " + ", ".join(rng.choices(WORDS, k=20)))]
        ids, answers = embedded.encode(prompt), [embedded.encode_answer(choice) for choice in choices]
        with torch.inference_mode():
            reference = score_separately(embedded.model, ids, answers)
        assert worst(embedded.score(prompt, choices), reference) < 1e-3


def test_models_without_a_tree_are_scored_separately_and_say_so(caplog):
    fits = tiny_lm()
    model = tiny_model(vocab_size=len(fits.tokenizer))
    model.config.layer_types = ["full_attention", "chunked_attention"] * 2
    with caplog.at_level(logging.WARNING):
        lm = type(fits)(model, fits.tokenizer, name="chunked")
    assert "chunked_attention" in caplog.text
    titles = ["Alien", "Aliens", "Up"]
    assert worst(lm.score("A film:", titles), fits.score("A film:", titles)) < 1e-3
    assert lm.choose("A film:", titles) == fits.choose("A film:", titles)
