"""Learning a `Scorer`: the weighted sum first, then the correction on top of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch

from reges_index.fusion.features import FEATURES
from reges_index.fusion.fit_weights import Example, Packed, WeightTraining, fit_weights
from reges_index.fusion.scorer import Scorer

__all__ = ["fit_scorer"]


def fit_scorer(
    examples: Sequence[Example], settings: WeightTraining, *, without: Collection[str] = (), seed: int = 0
) -> Scorer:
    """Return a scorer by listwise softmax on out-of-fold features.

    Parameters
    ----------
    without
        Features that get no weight.
    seed
        Of the hidden units' first weights, the dropout and the order of examples.
    """
    packed = Packed.of(examples, without=without)
    linear = fit_weights(packed, settings)
    if not settings.hidden:
        return Scorer.weighted((linear * packed.scale).numpy())
    return Scorer.mean([_one(packed, linear, settings, seed + n) for n in range(settings.networks)])


def _one(packed: Packed, linear: torch.Tensor, settings: WeightTraining, seed: int) -> Scorer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _refine(packed, linear, settings)
    scale = packed.scale
    return Scorer(
        linear=(network.linear.detach() * scale).numpy(),
        hidden=np.ascontiguousarray((network.units.weight.detach() * scale).T.numpy()),
        offset=network.units.bias.detach().numpy(),
        out=network.out.detach().numpy(),
    )


class _Network(torch.nn.Module):
    def __init__(self, linear: torch.Tensor, settings: WeightTraining) -> None:
        super().__init__()
        self.linear = torch.nn.Parameter(linear.clone())
        self.units = torch.nn.Linear(len(FEATURES), settings.hidden)
        # It begins as the weighted sum: the correction is 0 until it has learnt something.
        self.out = torch.nn.Parameter(torch.zeros(settings.hidden))
        self.dropout = torch.nn.Dropout(settings.dropout)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        correction = self.dropout(torch.tanh(self.units(features))) @ self.out
        scores: torch.Tensor = features @ self.linear + correction
        return scores


def _refine(packed: Packed, linear: torch.Tensor, settings: WeightTraining) -> _Network:
    network = _Network(linear, settings)
    groups = [
        {"params": [network.linear], "weight_decay": 0.0},
        {"params": [*network.units.parameters(), network.out], "weight_decay": settings.weight_decay},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
    count = len(packed.features)
    steps = settings.epochs * -(-count // settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=steps)
    for _ in range(settings.epochs):
        for rows in torch.randperm(count).split(settings.batch_size):
            batch = packed.rows(rows)
            loss = batch.loss(network(batch.features), settings.new_share)
            loss = loss + settings.l2 * (network.linear**2).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()
