"""TRL's SFT trainer on the same plan, optimizer, schedule and checkpoints as the plain loop.

TRL brings what large models need: several GPUs or nodes by ``accelerate launch``, FSDP, DeepSpeed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from reges_index.errors import ConfigError
from reges_index.training.batches import PlannedStep
from reges_index.training.config import ExpertTraining
from reges_index.training.data import Example
from reges_index.training.parallel import Team
from reges_index.training.run_state import RunState

__all__ = ["train_trl"]

logger = logging.getLogger(__name__)

_IGNORED = -100  # the label of tokens without loss, in Hugging Face's trainers
_KEYS = ("input_ids", "labels")


class _Planned(SFTTrainer):
    """Takes the micro-batches of the plan as they are: each is a row of the data set."""

    def get_train_dataloader(self) -> Any:
        # Neither shuffled nor cut anew. On several processes accelerate deals the rows out in turns.
        loader = DataLoader(self.train_dataset, batch_size=1, shuffle=False, collate_fn=self.data_collator)
        return self.accelerator.prepare(loader)


class _Reporter(TrainerCallback):
    """Hands each step's loss to the run's state, which saves and stops."""

    def __init__(self, state: RunState, sizes: Sequence[int], team: Team) -> None:
        self._state = state
        self._sizes = sizes
        self._team = team
        self._began = time.perf_counter()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._began = time.perf_counter()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        # Clipping, which is over, has made NaN of a gradient that was infinite. Under FSDP each process looks
        # at its own part.
        grads = [p.grad for p in self._state.named.values() if p.grad is not None]
        own = [grad.to_local() if hasattr(grad, "to_local") else grad for grad in grads]
        self._state.check_gradient(float(torch.nn.utils.get_total_norm(own)))

    def on_log(self, _args: Any, _state: Any, _control: Any, logs: dict[str, Any], **_: Any) -> None:
        if "loss" in logs:  # every step; the last log of a run is a summary without
            seconds = time.perf_counter() - self._began
            tokens = self._sizes[self._state.step]
            self._state.finish_step(
                float(logs["loss"]), tokens=tokens, seconds=seconds, leads=self._team.leads
            )


def train_trl(
    model: Any,
    plan: Sequence[PlannedStep],
    settings: ExpertTraining,
    state: RunState,
    *,
    tokenizer: Any,
    folder: Path,
    team: Team,
) -> None:
    """Train the LoRA weights of ``model`` from ``state`` to the end of the plan.

    Parameters
    ----------
    plan
        Steps of all processes together: with n of them, each takes every n-th micro-batch.
    folder
        For what TRL wants to write (nothing, as a rule).

    Raises
    ------
    ConfigError
        If the steps' micro-batches cannot be shared evenly by the processes.
    TrainingError
        If the loss or the gradient's norm is no number; the last good checkpoint is kept.
    StorageError
        If a checkpoint cannot be written.
    """
    left = plan[state.step :]
    if not left:
        return
    if settings.gradient_accumulation % team.size:
        raise ConfigError(
            f"{team.size} processes cannot share {settings.gradient_accumulation} micro-batches evenly",
            hint=f"set gradient_accumulation, which counts those of all, to a multiple of {team.size}; with "
            "batch_size divided by as much the steps stay as large",
        )
    parts = [part for step in left for part in _filled(step, settings.gradient_accumulation)]
    options = SFTConfig(
        output_dir=str(folder),
        max_steps=len(left),
        per_device_train_batch_size=1,  # a row is a micro-batch
        gradient_accumulation_steps=settings.gradient_accumulation // team.size,
        max_grad_norm=settings.max_grad_norm,
        gradient_checkpointing=settings.gradient_checkpointing,
        seed=settings.seed,
        bf16=False,  # the base is in its number format already, the adapter in fp32
        logging_steps=1,
        logging_nan_inf_filter=False,  # else a loss that is no number is logged as zero
        save_strategy="no",  # the run's own checkpoints are whole or not there, and hold no pickle
        report_to="none",
        disable_tqdm=True,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        use_cpu=model.device.type == "cpu",
    )
    padded = [sum(len(part) * max(example.length for example in part) for part in step) for step in plan]
    trainer = _Planned(
        model=model,
        args=options,
        train_dataset=datasets.Dataset.from_dict({key: [part[key] for part in parts] for key in _KEYS}),
        data_collator=_padded,
        processing_class=tokenizer,
        optimizers=(state.optimizer, state.scheduler),
        callbacks=[_Reporter(state, padded, team)],
    )
    trainer.train()


def _filled(step: PlannedStep, count: int) -> list[dict[str, list[list[int]]]]:
    """Return a step's micro-batches, filled up to ``count``: the trainer takes as many for every step.

    The last step of an epoch may have fewer. Taken as they are, the next epoch's would be drawn into it.
    """
    parts = [_row(part) for part in step]
    # Two tokens without loss: no gradient, and nothing in the mean over the step's answer tokens.
    nothing = {"input_ids": [[step[0][0].prompt_ids[0]] * 2], "labels": [[_IGNORED] * 2]}
    return parts + [nothing] * (count - len(parts))


def _row(part: Sequence[Example]) -> dict[str, list[list[int]]]:
    return {
        "input_ids": [[*e.prompt_ids, *e.answer_ids] for e in part],
        "labels": [[_IGNORED] * len(e.prompt_ids) + list(e.answer_ids) for e in part],
    }


def _padded(rows: Sequence[Mapping[str, Sequence[Sequence[int]]]]) -> dict[str, torch.Tensor]:
    """Pad the one micro-batch that is loaded at a time on the right."""
    [part] = rows
    ids, labels = ([torch.tensor(row) for row in part[key]] for key in _KEYS)
    return {
        "input_ids": pad_sequence(ids, batch_first=True),  # by any id: no real token sees it
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=_IGNORED),
    }
