"""Examples as tensors: padded rows, or one tree in which shared beginnings are computed once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from reges_index.training.examples import Example

PlannedStep: TypeAlias = "list[list[Example]]"
"""The examples of one optimizer step, in micro-batches."""


@dataclass(frozen=True)
class MicroBatch:
    """What one forward needs.

    Attributes
    ----------
    input_ids
        Token ids, shape (rows, length).
    rows, positions
        Where the hidden states are that predict the answer tokens; shape (answer tokens,) each.
    targets, weights
        The answer tokens, and what each counts in the loss, shape (answer tokens,) each.
    position_ids, visible
        For a tree: depth of each token, shape (1, length), and which token may see which, bool, shape
        (1, 1, length, length). None for rows padded on the right, which need neither: under a causal mask
        no real token sees the padding behind it.
    """

    input_ids: torch.Tensor
    rows: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    position_ids: torch.Tensor | None = None
    visible: torch.Tensor | None = None


def pad_right(examples: Sequence[Example], pad_id: int) -> MicroBatch:
    """Put each example on a row of its own."""
    length = max(len(e.prompt_ids) + len(e.answer_ids) for e in examples)
    input_ids = torch.full((len(examples), length), pad_id, dtype=torch.long)
    rows: list[int] = []
    positions: list[int] = []
    targets: list[int] = []
    for row, example in enumerate(examples):
        ids = [*example.prompt_ids, *example.answer_ids]
        input_ids[row, : len(ids)] = torch.tensor(ids)
        rows += [row] * len(example.answer_ids)
        positions += range(len(example.prompt_ids) - 1, len(ids) - 1)
        targets += example.answer_ids
    return MicroBatch(
        input_ids, torch.tensor(rows), torch.tensor(positions), torch.tensor(targets), _weights(examples)
    )


def merge_prefixes(examples: Sequence[Example]) -> MicroBatch:
    """Merge examples into one tree of tokens: equal beginnings of prompts once, answers as branches.

    Each token sees its ancestors and nothing else, at the position that it has in its own example, so every
    answer gets the loss that it would get alone.
    """
    tokens: list[int] = []
    parents: list[int] = []
    depths: list[int] = []
    children: dict[tuple[int, int], int] = {}
    predictors: list[int] = []
    targets: list[int] = []

    def grow(parent: int, token: int) -> int:
        tokens.append(token)
        parents.append(parent)
        depths.append(depths[parent] + 1 if parent >= 0 else 0)
        return len(tokens) - 1

    for example in examples:
        node = -1
        for token in example.prompt_ids:
            child = children.get((node, token))
            if child is None:
                child = children[node, token] = grow(node, token)
            node = child
        for token in example.answer_ids:  # never shared: each answer token counts once in the loss
            predictors.append(node)
            targets.append(token)
            node = grow(node, token)

    visible = torch.eye(len(tokens), dtype=torch.bool)
    for node, parent in enumerate(parents):  # a parent always comes before its children
        if parent >= 0:
            visible[node] |= visible[parent]
    return MicroBatch(
        input_ids=torch.tensor([tokens]),
        rows=torch.zeros(len(targets), dtype=torch.long),
        positions=torch.tensor(predictors),
        targets=torch.tensor(targets),
        weights=_weights(examples),
        position_ids=torch.tensor([depths]),
        visible=visible[None, None],
    )


def _weights(examples: Sequence[Example]) -> torch.Tensor:
    return torch.tensor([example.weight for example in examples for _ in example.answer_ids])


# Trees are filled up to this size. Sharing the instruction among two dialogues saves a fifth of the tokens;
# attention is quadratic in a tree's length and eats that up again soon after (measured on two cores: 450
# tokens/s at 350 tokens, 370 at 700). A dialogue, which shares more, may take twice as much.
_TREE_TOKENS = 512


def plan_epoch(
    examples: Sequence[Example],
    *,
    batch_size: int,
    accumulation: int,
    share_prefixes: bool,
    seed: int,
    epoch: int,
) -> list[PlannedStep]:
    """Order an epoch: optimizer steps, each of micro-batches.

    Depends on nothing but its arguments, so a resumed run goes on with the very next step. Every example
    comes exactly once.

    The micro-batches of a step are of similar length, for the sake of padding and of processes that wait
    for each other: shuffled examples are sorted within windows of 16 steps. Trees hold the examples of one
    group (one dialogue) or of a few, and a step is full once it holds ``batch_size * accumulation`` examples.
    """
    rng = random.Random(f"{seed}/{epoch}")
    order = list(range(len(examples)))
    rng.shuffle(order)
    per_step = batch_size * accumulation
    steps: list[list[list[int]]] = []
    if share_prefixes:
        trees = _trees(examples, order)
        window = max(1, round(16 * per_step * len(trees) / len(examples)))
        for start in range(0, len(trees), window):
            part = sorted(trees[start : start + window], key=lambda tree: tree.size)
            steps += _fill_steps([tree.members for tree in part], per_step)
    else:
        for start in range(0, len(order), 16 * per_step):
            part_of = sorted(order[start : start + 16 * per_step], key=lambda i: examples[i].length)
            batches = [part_of[i : i + batch_size] for i in range(0, len(part_of), batch_size)]
            steps += [batches[i : i + accumulation] for i in range(0, len(batches), accumulation)]
    # A last step that is not full stays last, so that whoever counts examples finds the same steps.
    short = [steps.pop()] if steps and sum(map(len, steps[-1])) < per_step else []
    rng.shuffle(steps)
    return [[[examples[index] for index in part] for part in step] for step in [*steps, *short]]


@dataclass
class _Tree:
    members: list[int]
    size: int


def _trees(examples: Sequence[Example], order: Sequence[int]) -> list[_Tree]:
    """Fill trees with whole groups; a group that is too long for one tree goes into several."""
    groups: dict[str, list[int]] = {}
    for index in order:
        groups.setdefault(examples[index].group or examples[index].id, []).append(index)
    trees: list[_Tree] = []
    for members in groups.values():
        for index in sorted(members, key=lambda i: examples[i].length):
            example = examples[index]
            if trees:
                near = (trees[-1].members[0], trees[-1].members[-1])
                new = example.length - max(_common_prefix(examples[i], example) for i in near)
                same_group = examples[near[1]].group == example.group != ""
                if trees[-1].size + new <= _TREE_TOKENS * (2 if same_group else 1):
                    trees[-1].members.append(index)
                    trees[-1].size += new
                    continue
            trees.append(_Tree([index], example.length))
    return trees


def _common_prefix(a: Example, b: Example) -> int:
    shared = 0
    for x, y in zip(a.prompt_ids, b.prompt_ids, strict=False):
        if x != y:
            break
        shared += 1
    return shared


def _fill_steps(trees: Sequence[list[int]], per_step: int) -> list[list[list[int]]]:
    steps: list[list[list[int]]] = []
    step: list[list[int]] = []
    held = 0
    for tree in trees:
        step.append(tree)
        held += len(tree)
        if held >= per_step:
            steps.append(step)
            step, held = [], 0
    return [*steps, step] if step else steps
