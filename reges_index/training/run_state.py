"""What a run needs to go on where it stopped: the same for both back ends."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import get_scheduler

from reges_index.errors import TrainingError
from reges_index.training.checkpoints import Checkpoint, latest_checkpoint, read_checkpoint, write_checkpoint
from reges_index.training.config import ExpertTraining

__all__ = ["Progress", "RunState"]

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

    losses: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0


class RunState:
    """Optimizer, schedule and progress of one run, and the checkpoints that hold them.

    Parameters
    ----------
    model
        A PEFT model whose adapter is trainable and whose base is frozen.
    steps
        Optimizer steps of the whole run.
    folder
        Of the checkpoints.
    run_hash
        Of examples and settings; a checkpoint with another one is refused.
    """

    def __init__(
        self, model: Any, settings: ExpertTraining, steps: int, folder: Path, *, run_hash: str
    ) -> None:
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.named.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.scheduler = get_scheduler(
            settings.scheduler if settings.scheduler != "constant" else "constant_with_warmup",
            self.optimizer,
            num_warmup_steps=math.ceil(settings.warmup * steps),
            num_training_steps=steps,
        )
        self.progress = Progress()
        self.steps = steps
        self.folder = folder
        self._run_hash = run_hash
        self._save_seconds = 60 * settings.save_every_minutes
        self._saved = self._logged = time.monotonic()

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return len(self.progress.losses)

    def finish_step(self, loss: float, *, tokens: int, seconds: float, leads: bool) -> None:
        """Note a step; log and save when it is time to.

        Raises
        ------
        TrainingError
            If the loss is no number. Nothing is saved then, so the last good checkpoint stays the newest.
        StorageError
            If the checkpoint cannot be written.
        """
        self.check(loss)
        self.progress.losses.append(loss)
        self.progress.tokens += tokens
        self.progress.seconds += seconds
        last = self.step == self.steps
        now = time.monotonic()
        if leads and (now - self._logged > _LOG_SECONDS or last):
            self._logged = now
            self._log()
        if leads and (now - self._saved > self._save_seconds or last):
            write_checkpoint(self.folder, self._snapshot())
            self._saved = time.monotonic()

    def check(self, loss: float) -> None:
        """Raise `TrainingError` if the loss of the step under way is no number."""
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss of step {self.step + 1} is {loss}",
                hint="the last checkpoint is kept; lower learning_rate, or train in float32",
            )

    def check_gradient(self, norm: float) -> None:
        """Raise `TrainingError` if the gradient's norm is no number; called before the weights are changed.

        A finite loss may have such a gradient. A step with it would leave weights of NaN, and the checkpoint
        that holds them would be the newest.
        """
        if not math.isfinite(norm):
            raise TrainingError(
                f"the gradient of step {self.step + 1} has the norm {norm}",
                hint="the last checkpoint is kept; lower learning_rate, or train in float32",
            )

    def resume(self) -> None:
        """Go on from the newest checkpoint, if there is one.

        Raises
        ------
        TrainingError
            If it is damaged or of another run.
        """
        path = latest_checkpoint(self.folder)
        if path is None:
            return
        checkpoint = read_checkpoint(path)
        state = checkpoint.state
        if state["run_hash"] != self._run_hash:
            raise TrainingError(
                f"{path} is of a run with other data or settings",
                hint="name another folder, delete this one, or pass resume=False",
            )
        order = list(self.named)
        moments: dict[int, dict[str, torch.Tensor]] = {index: {} for index in range(len(order))}
        with torch.no_grad():
            for key, tensor in checkpoint.tensors.items():
                kind, _, name = key.partition("/")
                if kind == "weight":
                    self.named[name].copy_(tensor)
                elif name:
                    moments[order.index(name)][kind] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        torch.set_rng_state(checkpoint.tensors["rng"])
        self.progress = Progress([float(x) for x in state["losses"]], state["tokens"], state["seconds"])
        # The rate of the next step by this run's own schedule, whose length may have been changed.
        self.scheduler.last_epoch = self.step
        for group, rate, base in zip(
            self.optimizer.param_groups, self.scheduler.lr_lambdas, self.scheduler.base_lrs, strict=True
        ):
            group["lr"] = base * rate(self.step)
        logger.info("resumed %s at step %d of %d", path, self.step, self.steps)

    def _snapshot(self) -> Checkpoint:
        tensors: dict[str, torch.Tensor] = {"rng": torch.get_rng_state()}
        for name, parameter in self.named.items():
            tensors[f"weight/{name}"] = parameter
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"{key}/{name}"] = value
        progress = self.progress
        state = {"losses": progress.losses, "tokens": progress.tokens, "seconds": progress.seconds}
        return Checkpoint(self.step, tensors, {"run_hash": self._run_hash, **state})

    def _log(self) -> None:
        recent = self.progress.losses[-20:]
        logger.info(
            "step %d of %d, loss %.3f (mean of the last %d), %.0f tokens/s",
            self.step,
            self.steps,
            sum(recent) / len(recent),
            len(recent),
            self.progress.tokens / max(self.progress.seconds, 1e-9),
        )
