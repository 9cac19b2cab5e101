"""The plain loop: exact resumption, trees of shared prefixes, one process or several."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import get_scheduler

from reges_index.errors import TrainingError
from reges_index.training.batches import MicroBatch, merge_prefixes, pad_right, plan_epoch
from reges_index.training.checkpoints import Checkpoint, latest_checkpoint, read_checkpoint, write_checkpoint
from reges_index.training.config import ExpertTraining
from reges_index.training.data import Example
from reges_index.training.parallel import Team, join_team

__all__ = ["Progress", "answer_loss", "train_loop"]

logger = logging.getLogger(__name__)

_LOG_SECONDS = 20.0


@dataclass
class Progress:
    """How far a run is.

    Attributes
    ----------
    losses
        Mean loss per answer token, one for each optimizer step.
    tokens
        Tokens that went through the model (shared ones once, padding included).
    seconds
        Time spent on steps.
    """

    losses: list[float]
    tokens: int = 0
    seconds: float = 0.0


def answer_loss(model: Any, batch: MicroBatch) -> torch.Tensor:
    """Return the summed cross-entropy of the answer tokens (a scalar, fp32).

    The vocabulary's logits are computed at the answers' positions only: a prompt of 300 tokens and 25 of
    answer would spend a fifth of a small model's time on logits that nobody reads.

    Parameters
    ----------
    model
        A PEFT model over a causal LM with the usual halves, ``model`` and ``lm_head``.
    """
    causal = model.get_base_model()
    device = causal.device
    options: dict[str, Any] = {}
    if batch.visible is not None and batch.position_ids is not None:
        # Additive: a boolean mask is silently wrong under eager attention.
        hidden_from = torch.zeros(batch.visible.shape, dtype=causal.dtype, device=device)
        hidden_from.masked_fill_(~batch.visible.to(device), torch.finfo(causal.dtype).min)
        options = {"attention_mask": hidden_from, "position_ids": batch.position_ids.to(device)}
    body = causal.get_decoder() if hasattr(causal, "get_decoder") else causal.model
    states = body(input_ids=batch.input_ids.to(device), use_cache=False, **options).last_hidden_state
    chosen = states[batch.rows.to(device), batch.positions.to(device)]
    logits = causal.get_output_embeddings()(chosen).float()
    cap = getattr(causal.config.get_text_config(), "final_logit_softcapping", None)  # Gemma 2
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    return cross_entropy(logits, batch.targets.to(device), reduction="sum")


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train_loop(
    model: Any,
    epochs: Sequence[Sequence[Example]],
    settings: ExpertTraining,
    folder: Path,
    *,
    pad_id: int,
    run_hash: str,
    resume: bool = True,
) -> Progress:
    """Train the LoRA weights of ``model``.

    Parameters
    ----------
    model
        A PEFT model whose adapter is trainable and whose base is frozen.
    epochs
        The examples of each pass.
    folder
        Where checkpoints are.
    run_hash
        Of examples and settings; a checkpoint of another run is refused.
    resume
        Go on from the newest checkpoint, if there is one.

    Raises
    ------
    TrainingError
        If the loss is no number (the last good checkpoint is kept), or the checkpoint is of another run.
    StorageError
        If a checkpoint cannot be written.
    """
    plan = [
        (examples, step)
        for number, examples in enumerate(epochs)
        for step in plan_epoch(
            examples,
            batch_size=settings.batch_size,
            accumulation=settings.gradient_accumulation,
            share_prefixes=settings.share_prefixes,
            seed=settings.seed,
            epoch=number,
        )
    ][: settings.max_steps]
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        named.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    scheduler = get_scheduler(
        settings.scheduler if settings.scheduler != "constant" else "constant_with_warmup",
        optimizer,
        num_warmup_steps=math.ceil(settings.warmup * len(plan)),
        num_training_steps=len(plan),
    )
    team = join_team()
    progress = Progress([])
    start = 0
    newest = latest_checkpoint(folder) if resume else None
    if newest is not None:
        start = _restore(read_checkpoint(newest), newest, run_hash, named, optimizer, scheduler, progress)
        logger.info("resumed %s at step %d of %d", newest, start, len(plan))

    model.train()
    team.wait()  # nobody writes a checkpoint while another still reads
    saved = logged = time.monotonic()
    with _threads(settings.num_threads):
        for number, (examples, step) in enumerate(plan[start:], start):
            began = time.perf_counter()
            loss = _one_step(model, examples, step, settings, pad_id, progress, named, team)
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss of step {number + 1} is {loss}",
                    hint="the last checkpoint is kept; lower learning_rate, or train in float32",
                )
            torch.nn.utils.clip_grad_norm_(named.values(), settings.max_grad_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            progress.losses.append(loss)
            progress.seconds += time.perf_counter() - began
            now = time.monotonic()
            last = number + 1 == len(plan)
            if team.leads and (now - logged > _LOG_SECONDS or last):
                _log(number + 1, len(plan), progress)
                logged = now
            if team.leads and (now - saved > 60 * settings.save_every_minutes or last):
                write_checkpoint(
                    folder, _snapshot(number + 1, run_hash, named, optimizer, scheduler, progress)
                )
                saved = time.monotonic()
    return progress


def _one_step(
    model: Any,
    examples: Sequence[Example],
    step: Sequence[Sequence[int]],
    settings: ExpertTraining,
    pad_id: int,
    progress: Progress,
    named: dict[str, torch.Tensor],
    team: Team,
) -> float:
    """Leave the gradients of one optimizer step in place and return its mean loss per answer token."""
    answers = sum(len(examples[index].answer_ids) for part in step for index in part)
    batches = [_batch([examples[index] for index in part], settings, pad_id) for part in step]
    total = torch.zeros(2, dtype=torch.float64)  # loss, tokens
    for batch in team.share(batches, [batch.input_ids.numel() for batch in batches]):
        loss = answer_loss(model, batch) / answers
        loss.backward()
        total += torch.tensor([float(loss.detach()), batch.input_ids.numel()])
    if team.size > 1:
        for parameter in named.values():
            if parameter.grad is None:  # a step of fewer micro-batches than processes
                parameter.grad = torch.zeros_like(parameter)
        team.add_up([total, *(p.grad for p in named.values() if p.grad is not None)])
    progress.tokens += int(total[1])
    return float(total[0])


def _batch(examples: Sequence[Example], settings: ExpertTraining, pad_id: int) -> MicroBatch:
    return merge_prefixes(examples) if settings.share_prefixes else pad_right(examples, pad_id)


def _log(step: int, steps: int, progress: Progress) -> None:
    recent = progress.losses[-20:]
    logger.info(
        "step %d of %d, loss %.3f (mean of the last %d), %.0f tokens/s",
        step,
        steps,
        sum(recent) / len(recent),
        len(recent),
        progress.tokens / max(progress.seconds, 1e-9),
    )


def _snapshot(
    step: int,
    run_hash: str,
    named: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    progress: Progress,
) -> Checkpoint:
    tensors: dict[str, torch.Tensor] = {"rng": torch.get_rng_state()}
    for name, parameter in named.items():
        tensors[f"weight/{name}"] = parameter
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}/{name}"] = value
    state = {
        "run_hash": run_hash,
        "schedule": scheduler.last_epoch,
        "losses": progress.losses,
        "tokens": progress.tokens,
        "seconds": progress.seconds,
    }
    return Checkpoint(step, tensors, state)


def _restore(
    checkpoint: Checkpoint,
    path: Path,
    run_hash: str,
    named: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    progress: Progress,
) -> int:
    state = checkpoint.state
    if state["run_hash"] != run_hash:
        raise TrainingError(
            f"{path} is of a run with other data or settings",
            hint="name another folder, delete this one, or pass resume=False",
        )
    parameters = list(named)
    moments: dict[int, dict[str, torch.Tensor]] = {index: {} for index in range(len(parameters))}
    with torch.no_grad():
        for key, tensor in checkpoint.tensors.items():
            kind, _, name = key.partition("/")
            if kind == "weight":
                named[name].copy_(tensor)
            elif name:
                moments[parameters.index(name)][kind] = tensor
    packed = optimizer.state_dict()
    optimizer.load_state_dict({"state": moments, "param_groups": packed["param_groups"]})
    # The rate of the next step, by this run's own schedule (its length may have been changed).
    scheduler.last_epoch = int(state["schedule"]) - 1
    scheduler.step()
    torch.set_rng_state(checkpoint.tensors["rng"])
    progress.losses += [float(loss) for loss in state["losses"]]
    progress.tokens, progress.seconds = int(state["tokens"]), float(state["seconds"])
    return checkpoint.step
