"""Soft targets: several items of a list fit, the true one most."""

from dataclasses import replace

import pytest
import torch

from reges_index.training.batches import merge_prefixes, pad_right
from reges_index.training.item_expert import train_item_expert
from reges_index.training.loop import answer_loss
from reges_index.training.lora import fresh_lora
from reges_index.training.selection_data import selection_examples
from tests.tiny import tiny_lm

from .test_sft import ITEMS, TURNS, settings

HARD = {turn.id: [name for name in ITEMS if name not in turn.targets] for turn in TURNS}
FITTING = {turn.id: [*turn.targets, "i5", "i6"] for turn in TURNS}
OPTIONS = settings(num_candidates=5, target_share=0.75, candidate_order="retrieved", epochs=1)


def made(turns=TURNS, options=OPTIONS, lm=None, **more):
    return selection_examples(turns, ITEMS, HARD, lm or tiny_lm(), options, fitting=FITTING, **more)[0]


def test_the_answers_to_one_prompt_share_its_weight():
    by_prompt = {}
    for example in made():
        by_prompt.setdefault(example.prompt_ids, []).append(example)
    assert len(by_prompt) == len(TURNS)
    for examples in by_prompt.values():
        weights = [example.weight for example in examples]
        assert sum(weights) == pytest.approx(1)
        assert weights[0] == 0.75
        assert weights[0] > weights[1] >= weights[-1] > 0
        assert len({example.answer_ids for example in examples}) == len(examples) > 1


def test_a_dialogue_without_a_label_learns_from_the_ranking():
    (turn, *_) = TURNS
    first, *others = made([turn.model_copy(update={"targets": ()})])
    assert first.id == f"{turn.id} {FITTING[turn.id][0]}"
    assert first.weight == 0.75
    assert others


def test_items_that_were_turned_down_are_among_the_wrong_ones():
    lm = tiny_lm()
    turn = TURNS[0].model_copy(update={"mentioned": ("i1", "i7")})
    options = settings(num_candidates=3, named_negatives=1, target_share=0.75)
    found, *_ = made([turn], options, lm)
    assert "Toy Story" in lm.tokenizer.decode(found.prompt_ids)  # the newest


def test_the_loss_is_the_weighted_sum_and_the_same_in_a_tree():
    lm = tiny_lm()
    examples = made(TURNS[:2], lm=lm)
    with fresh_lora(lm, OPTIONS) as model, torch.no_grad():
        alone = sum(
            example.weight * float(answer_loss(model, pad_right([replace(example, weight=1.0)], 0)))
            for example in examples
        )
        assert float(answer_loss(model, pad_right(examples, 0))) == pytest.approx(alone, rel=1e-4)
        assert float(answer_loss(model, merge_prefixes(examples))) == pytest.approx(alone, rel=1e-4)


def test_it_learns(tmp_path):
    options = OPTIONS.model_copy(update={"epochs": 4, "share_prefixes": True})
    result = train_item_expert(TURNS, ITEMS, HARD, tiny_lm(), options, tmp_path / "g", fitting=FITTING)
    window = len(result.losses) // 4
    assert sum(result.losses[-window:]) < 0.8 * sum(result.losses[:window])


def test_shared_lists_have_no_soft_targets():
    with pytest.raises(ValueError, match="candidates_of 'turn'"):
        settings(target_share=0.5, candidates_of="dialogue")
