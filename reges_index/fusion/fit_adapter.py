"""Training the query adapter: softmax over the whole catalog, on the vectors of train dialogues."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from reges_index.fusion.adapter import BLOCKS, QueryAdapter
from reges_index.fusion.fitting import TrainSet

__all__ = ["AdapterTraining", "Maps", "TrainTensors", "bias_levels", "fit_adapter", "pace"]


@dataclass(frozen=True)
class AdapterTraining:
    """Settings of `fit_adapter`; the defaults were chosen by cross-validation (finetune/FUSION.md).

    Attributes
    ----------
    epochs, batch_size, learning_rate
        Of AdamW.
    weight_decay
        Pulls the maps towards the identity times a number.
    bias_decay
        Pulls the items' biases to 0.
    dropout
        On the input vectors, and on whole blocks.
    scale
        Log-odds of a cosine of 1 at the start.
    sample
        Items of the softmax: the whole catalog where it is no larger, else the batch's targets and others at
        random, drawn anew for each batch.
    """

    epochs: int = 14
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    bias_decay: float = 2e-4
    dropout: float = 0.3
    scale: float = 10.0
    sample: int = 2048
    seed: int = 0


class Maps(torch.nn.Module):
    """A map for each of `BLOCKS`, a number times the identity at first, and a bias for each title."""

    def __init__(self, dimension: int, titles: int, settings: AdapterTraining) -> None:
        super().__init__()
        self.own = torch.nn.Parameter(torch.full((len(BLOCKS),), settings.scale / len(BLOCKS)))
        self.change = torch.nn.Parameter(torch.zeros(len(BLOCKS), dimension, dimension))
        self.bias = torch.nn.Parameter(torch.zeros(titles))
        self._dropout = settings.dropout

    def forward(self, blocks: torch.Tensor) -> torch.Tensor:
        """Return query vectors, shape (T, d), from blocks, shape (T, len(BLOCKS), d)."""
        if self.training and self._dropout:
            kept = torch.rand(*blocks.shape[:2], 1) >= self._dropout
            blocks = torch.nn.functional.dropout(blocks, self._dropout) * kept
        return torch.einsum("tbd,bde->te", blocks, self.matrices())

    def matrices(self) -> torch.Tensor:
        """Return the maps, shape (len(BLOCKS), d, d)."""
        return self.change + self.own[:, None, None] * torch.eye(self.change.shape[1])


@dataclass(frozen=True)
class TrainTensors:
    """What a fit of the query side reads of its train sets, and its loss.

    Attributes
    ----------
    sets
        Where the rest is from.
    keys
        Shape (K,): `title_hash` of the items of all sets, ascending.
    place
        For each set, shape (N,): where in ``keys`` each item is.
    items
        For each set, shape (N, d): vectors of the frozen encoder.
    blocks
        For each set, shape (T, len(BLOCKS), d).
    """

    sets: Sequence[TrainSet]
    keys: npt.NDArray[np.int64]
    place: list[torch.Tensor]
    items: list[torch.Tensor]
    blocks: list[torch.Tensor]

    @classmethod
    def of(cls, sets: Sequence[TrainSet]) -> TrainTensors:
        """Return the tensors of some train sets."""
        keys = np.unique(np.concatenate([train.titles for train in sets]))
        return cls(
            sets,
            keys,
            place=[torch.from_numpy(np.searchsorted(keys, train.titles)) for train in sets],
            items=[torch.from_numpy(np.asarray(train.sources.vectors, dtype=np.float32)) for train in sets],
            blocks=[torch.from_numpy(train.blocks()) for train in sets],
        )

    def loss(
        self,
        which: int,
        part: npt.NDArray[np.int64],
        query: torch.Tensor,
        bias: torch.Tensor,
        sample: int,
        rng: np.random.Generator,
    ) -> torch.Tensor:
        """Return the mean cross-entropy of some turns' targets among the items (a scalar).

        Named items other than the target leave the softmax: repeating them is for other features to decide.

        Parameters
        ----------
        which, part
            Number of the set, and the numbers of its turns, B of them.
        query
            Shape (B, d).
        bias
            Shape (K,).
        sample
            As in `AdapterTraining`.
        """
        seen, targets, hidden = _columns(self.sets[which], part, sample, rng)
        logits = query @ self.items[which][seen].T + bias[self.place[which][seen]]
        logits = logits.masked_fill(hidden, -1e4)
        return (torch.logsumexp(logits, 1) - (logits * targets).sum(1)).mean()


def fit_adapter(
    sets: Sequence[TrainSet], rows: Sequence[npt.NDArray[np.int64]], settings: AdapterTraining
) -> QueryAdapter:
    """Train on the given rows of each set.

    Parameters
    ----------
    rows
        For each set the numbers of the turns to train on.
    """
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    tensors = TrainTensors.of(sets)
    maps = Maps(tensors.items[0].shape[1], len(tensors.keys), settings)
    groups = [
        {"params": [maps.own], "weight_decay": 0.0},
        {"params": [maps.change], "weight_decay": settings.weight_decay / settings.learning_rate},
        {
            "params": [maps.bias],
            "weight_decay": settings.bias_decay / settings.learning_rate,
            "lr": settings.learning_rate * 10,
        },
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
    usable = [np.array([r for r in its if train.targets[r]]) for train, its in zip(sets, rows, strict=True)]
    steps = sum(-(-len(its) // settings.batch_size) for its in usable) * settings.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: pace(step, steps))
    maps.train()
    for _ in range(settings.epochs):
        batches = [
            (which, part)
            for which, its in enumerate(usable)
            if len(its)
            for part in np.array_split(rng.permutation(its), -(-len(its) // settings.batch_size))
        ]
        for n in rng.permutation(len(batches)):
            which, part = batches[n]
            query = maps(tensors.blocks[which][part])
            loss = tensors.loss(which, part, query, maps.bias, settings.sample, rng)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    matrices = maps.matrices().detach().numpy().astype(np.float32)
    return QueryAdapter(dict(zip(BLOCKS, matrices, strict=True)), *bias_levels(maps, tensors, usable))


def bias_levels(
    maps: Maps, tensors: TrainTensors, rows: Sequence[npt.NDArray[np.int64]]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the keys of the items that were targets in these rows, and their biases."""
    biases = maps.bias.detach().numpy().astype(np.float32)
    recommended = np.zeros(len(tensors.keys), dtype=bool)
    for train, its, where in zip(tensors.sets, rows, tensors.place, strict=True):
        recommended[where[[target for row in its for target in train.targets[row]]].numpy()] = True
    # Every item that was never a target has been pushed down alike; that level is the 0 of unknown items.
    level = float(biases[~recommended].mean()) if not recommended.all() else 0.0
    return tensors.keys[recommended], biases[recommended] - level


def pace(step: int, steps: int) -> float:
    """Return the share of the learning rate: up over a tenth of the steps, then down along a cosine."""
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _columns(
    train: TrainSet, part: npt.NDArray[np.int64], sample: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the items of a batch's softmax (M,), its targets (B, M; rows sum to 1), and what is hidden."""
    size = len(train.sources.items)
    seen = np.arange(size)
    if size > sample:
        needed = {target for turn in part for target in train.targets[turn]}
        others = rng.choice(size, sample, replace=False)
        seen = np.array(sorted(needed | set(others.tolist())))
    column = {int(item): n for n, item in enumerate(seen)}
    targets = torch.zeros(len(part), len(seen))
    hidden = torch.zeros(len(part), len(seen), dtype=torch.bool)
    for row, turn in enumerate(part):
        its = [column[t] for t in train.targets[turn]]
        targets[row, its] = 1 / len(its)
        named = {n.item for n in train.states[turn].named} - set(train.targets[turn])
        hidden[row, [column[n] for n in named if n in column]] = True
    return torch.from_numpy(seen), targets, hidden
