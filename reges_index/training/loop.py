"""The plain loop: exact resumption, trees of shared prefixes, one process or several."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from reges_index.training.batches import MicroBatch, PlannedStep, merge_prefixes, pad_right
from reges_index.training.config import ExpertTraining
from reges_index.training.parallel import Team
from reges_index.training.run_state import RunState

__all__ = ["answer_loss", "train_loop"]

logger = logging.getLogger(__name__)


def answer_loss(model: Any, batch: MicroBatch) -> torch.Tensor:
    """Return the summed cross-entropy of the answer tokens, each by its weight (a scalar, fp32).

    The vocabulary's logits are computed at the answers' positions only: with a prompt of 300 tokens and an
    answer of 25, a small model would spend a fifth of its time on logits that nobody reads.

    Parameters
    ----------
    model
        A PEFT model over a causal LM.
    """
    causal = model.get_base_model()
    device = causal.device
    options: dict[str, Any] = {}
    if batch.visible is not None and batch.position_ids is not None:
        # Additive: a boolean mask is silently wrong under eager attention.
        mask = torch.zeros(batch.visible.shape, dtype=causal.dtype, device=device)
        mask.masked_fill_(~batch.visible.to(device), torch.finfo(causal.dtype).min)
        options = {"attention_mask": mask, "position_ids": batch.position_ids.to(device)}
    body = causal.get_decoder()
    states = body(input_ids=batch.input_ids.to(device), use_cache=False, **options).last_hidden_state
    chosen = states[batch.rows.to(device), batch.positions.to(device)]
    logits = causal.get_output_embeddings()(chosen).float()
    cap = getattr(causal.config.get_text_config(), "final_logit_softcapping", None)  # Gemma 2
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    losses = cross_entropy(logits, batch.targets.to(device), reduction="none")
    return losses @ batch.weights.to(device)


def train_loop(
    model: Any,
    plan: Sequence[PlannedStep],
    settings: ExpertTraining,
    state: RunState,
    *,
    pad_id: int,
    team: Team,
) -> None:
    """Train the LoRA weights of ``model`` from ``state`` to the end of the plan.

    Raises
    ------
    TrainingError
        If the loss or the gradient's norm is no number; the last good checkpoint is kept.
    StorageError
        If a checkpoint cannot be written.
    """
    model.train()
    _warn_of_idle_processes(plan[state.step :], team)
    for step in plan[state.step :]:
        began = time.perf_counter()
        batches = [
            merge_prefixes(part) if settings.share_prefixes else pad_right(part, pad_id) for part in step
        ]
        loss, tokens = _add_gradients(model, batches, state, team)
        state.check(loss)
        norm = torch.nn.utils.clip_grad_norm_(state.named.values(), settings.max_grad_norm)
        state.check_gradient(float(norm))
        state.optimizer.step()
        state.scheduler.step()
        state.optimizer.zero_grad()
        state.finish_step(loss, tokens=tokens, seconds=time.perf_counter() - began, leads=team.leads)


def _warn_of_idle_processes(plan: Sequence[PlannedStep], team: Team) -> None:
    most = max(map(len, plan), default=team.size)
    if team.leads and most < team.size:
        logger.warning(
            "%d of %d processes have nothing to do: a step has at most %d micro-batches. Set "
            "gradient_accumulation to %d; with batch_size divided by as much the steps stay as large",
            team.size - most,
            team.size,
            most,
            team.size,
        )


def _add_gradients(
    model: Any, batches: Sequence[MicroBatch], state: RunState, team: Team
) -> tuple[float, int]:
    """Leave an optimizer step's gradients in place; return its mean loss per answer token and its tokens."""
    sizes = [batch.input_ids.numel() for batch in batches]
    answers = float(sum(batch.weights.sum() for batch in batches))
    loss = torch.zeros((), dtype=torch.float64)
    for batch in team.share(batches, sizes):
        part = answer_loss(model, batch) / answers
        part.backward()
        loss += float(part.detach())
    if team.size > 1:
        for parameter in state.named.values():
            if parameter.grad is None:  # fewer micro-batches than processes
                parameter.grad = torch.zeros_like(parameter)
        team.add_up([loss, *(p.grad for p in state.named.values() if p.grad is not None)])
    return float(loss), sum(sizes)
