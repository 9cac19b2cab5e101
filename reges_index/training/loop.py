"""The plain loop: exact resumption, trees of shared prefixes, one process or several.

Several processes on one run each take a part of every optimizer step, and their gradients are added up.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy

from reges_index.errors import TrainingError
from reges_index.training.batches import MicroBatch, PlannedStep, merge_prefixes, pad_right
from reges_index.training.checkpoints import RunState
from reges_index.training.config import ExpertTraining

logger = logging.getLogger(__name__)

_LOG_SECONDS = 20.0


@dataclass(frozen=True)
class Team:
    """A process among those that train together.

    Attributes
    ----------
    rank, size
        Its number, and how many there are; 0 and 1 when it is alone.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def add_up(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in one message."""
        tensors = list(tensors)
        device = tensors[-1].device
        flat = torch.cat([tensor.detach().reshape(-1).to(device, torch.float32) for tensor in tensors])
        dist.all_reduce(flat)
        with torch.no_grad():
            for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
                tensor.copy_(part.reshape(tensor.shape))

    def place(self, device: torch.device) -> torch.device:
        """Return where this process's model belongs: on a machine with several GPUs, each has its own."""
        if self.size == 1 or device.type != "cuda":
            return device
        own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(own)
        return own

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()


def join_team() -> Team:
    """Join the processes that ``accelerate launch`` or ``torchrun`` started; alone without them."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return Team()
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    return Team(dist.get_rank(), dist.get_world_size())


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


def run_steps(
    state: RunState,
    total: int,
    rate: Callable[[int], float],
    gradients: Callable[[int], tuple[float, int]],
    *,
    save_every_s: float,
    max_norm: float = 1.0,
    leads: bool = True,
    saved: Callable[[], None] = lambda: None,
) -> None:
    """Do the optimizer steps that are left of a run.

    Parameters
    ----------
    total
        Steps of the whole run.
    rate
        The learning rate of a step, by its number from 0.
    gradients
        Leaves the gradients of a step in place; returns its loss and how many tokens it took.
    save_every_s
        Seconds between checkpoints; the last step is followed by one in any case.
    max_norm
        Gradients are clipped to it.
    leads
        Whether this process logs and saves.
    saved
        Called behind each checkpoint.

    Raises
    ------
    TrainingError
        If the loss or the gradient's norm is no number. The weights are untouched then, and the last good
        checkpoint is kept.
    StorageError
        If a checkpoint cannot be written.
    """
    last_save = logged = time.monotonic()
    for step in range(state.step, total):
        began = time.perf_counter()
        for group in state.optimizer.param_groups:
            group["lr"] = rate(step)
        loss, tokens = gradients(step)
        norm = float(torch.nn.utils.clip_grad_norm_(state.parameters.values(), max_norm))
        # A finite loss may have a gradient that is no number, which would leave weights of NaN.
        for name, value in (("loss", loss), ("gradient's norm", norm)):
            if not math.isfinite(value):
                raise TrainingError(
                    f"the {name} of step {step + 1} is {value}",
                    hint="the last checkpoint is kept; lower learning_rate, or train in float32",
                )
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.losses.append(loss)
        state.tokens += tokens
        state.seconds += time.perf_counter() - began
        last, now = step + 1 == total, time.monotonic()
        if leads and (last or now - logged > _LOG_SECONDS):
            logged = now
            recent = state.losses[-20:]
            logger.info(
                "step %d of %d, loss %.3f (mean of the last %d), %.0f s",
                *(step + 1, total, sum(recent) / len(recent), len(recent), state.seconds),
            )
        if leads and (last or now - last_save > save_every_s):
            state.save()
            saved()
            last_save = time.monotonic()


def learning_rate(
    peak: float, step: int, steps: int, *, warmup: float, scheduler: Literal["linear", "cosine"]
) -> float:
    """Return the rate of a step: it rises over a share of the steps and then falls to 0."""
    rise = math.ceil(warmup * steps)
    if step < rise:
        return peak * step / rise
    done = (step - rise) / max(1, steps - rise)
    return peak * (1 - done if scheduler == "linear" else 0.5 * (1 + math.cos(math.pi * done)))


def train_loop(
    model: Any,
    plan: Sequence[PlannedStep],
    settings: ExpertTraining,
    state: RunState,
    *,
    pad_id: int,
    team: Team,
) -> None:
    """Train the LoRA weights of ``model`` from ``state`` to the end of the plan, as `run_steps` does."""
    model.train()
    _warn_of_idle_processes(plan[state.step :], team)

    def rate(step: int) -> float:
        its = settings
        return learning_rate(its.learning_rate, step, len(plan), warmup=its.warmup, scheduler=its.scheduler)

    def gradients(step: int) -> tuple[float, int]:
        merge = merge_prefixes if settings.share_prefixes else partial(pad_right, pad_id=pad_id)
        return _add_gradients(model, [merge(part) for part in plan[step]], state, team)

    run_steps(
        state, len(plan), rate, gradients, save_every_s=60 * settings.save_every_minutes,
        max_norm=settings.max_grad_norm, leads=team.leads,
    )  # fmt: skip


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
    for batch in batches[team.rank :: team.size]:  # they are of similar length
        part = answer_loss(model, batch) / answers
        part.backward()
        loss += float(part.detach())
    if team.size > 1:
        for parameter in state.parameters.values():
            if parameter.grad is None:  # fewer micro-batches than processes
                parameter.grad = torch.zeros_like(parameter)
        team.add_up([loss, *(p.grad for p in state.parameters.values() if p.grad is not None)])
    return float(loss), sum(sizes)
