"""What a run needs to go on where it stopped: whole checkpoints, written and read without pickle."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from reges_index.errors import TrainingError
from reges_index.files import unwritable, whole_folder

__all__ = [
    "Checkpoint",
    "RunState",
    "latest_checkpoint",
    "read_checkpoint",
    "set_checkpoints_aside",
    "write_checkpoint",
]

logger = logging.getLogger(__name__)

_PREFIX = "checkpoint-"
_STATE = "state.json"
_TENSORS = "tensors.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to go on as if it had never stopped.

    Attributes
    ----------
    step
        Optimizer steps done.
    tensors
        Adapter weights, optimizer moments and the random state, by name.
    state
        JSON: losses so far, tokens, seconds, the hash of data and settings.
    """

    step: int
    tensors: Mapping[str, torch.Tensor]
    state: Mapping[str, Any] = field(default_factory=dict)


def write_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int = 2) -> Path:
    """Write a checkpoint into a run's folder and delete all but it and the newest others, ``keep`` in all.

    Raises
    ------
    StorageError
        If it cannot be written; older checkpoints are kept.
    """
    target = folder / f"{_PREFIX}{checkpoint.step}"
    with whole_folder(target) as work:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
        try:
            save_file(tensors, work / _TENSORS)
        except SafetensorError as error:  # what it says of a full disk
            raise OSError(str(error)) from error
        text = json.dumps({"step": checkpoint.step, **checkpoint.state})
        (work / _STATE).write_text(text, encoding="utf-8")
    # Not by number alone: the one just written may be lower than what another run has left here.
    others = [path for path in _found(folder) if path != target]
    for old in others[: max(0, len(others) - (keep - 1))]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def set_checkpoints_aside(folder: Path) -> None:
    """Move the checkpoints of a run's folder to ``set-aside-N`` in it, for a run that begins anew there.

    Left where they are they would be taken for its own: higher numbers count as newer.

    Raises
    ------
    StorageError
        If they cannot be moved.
    """
    number = 1
    while (place := folder / f"set-aside-{number}").exists():
        number += 1
    try:
        place.mkdir()
        for path in _found(folder):
            path.replace(place / path.name)
    except OSError as error:
        hint = f"delete the checkpoints in {folder}, or name another folder"
        raise unwritable(place, error, hint) from error
    logger.warning("other data or settings: begun anew, the checkpoints of the run before are in %s", place)


def _found(folder: Path) -> list[Path]:
    found = [p for p in folder.glob(f"{_PREFIX}*") if p.name[len(_PREFIX) :].isdigit()]
    return sorted(found, key=lambda p: int(p.name[len(_PREFIX) :]))


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint of a run's folder, or None."""
    found = _found(folder)
    return found[-1] if found else None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises
    ------
    TrainingError
        If it is damaged (by something else than this package, which writes whole folders only).
    """
    try:
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        return Checkpoint(int(state.pop("step")), load_file(path / _TENSORS), state)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise TrainingError(
            f"{path} is no checkpoint that can be read: {error}",
            hint="delete that folder; the run goes on from the one before it, or from the start",
        ) from error


class RunState:
    """Weights, optimizer and progress of one run, and the checkpoints that hold them.

    Parameters
    ----------
    parameters
        What is trained, by name.
    optimizer
        AdamW over them, in their order.
    folder
        Of the checkpoints.
    run_hash
        Of examples and settings: a checkpoint with another one is set aside.

    Attributes
    ----------
    losses
        One for each optimizer step done.
    tokens, seconds
        What went through the model (shared tokens once, padding included), and the time spent on it.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
        folder: Path,
        run_hash: str,
    ) -> None:
        self.parameters, self.optimizer, self.folder = parameters, optimizer, folder
        self._run_hash = run_hash
        self.losses: list[float] = []
        self.tokens, self.seconds = 0, 0.0

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return len(self.losses)

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return self.tokens / max(self.seconds, 1e-9)

    def resume(self) -> None:
        """Go on from the newest checkpoint, if there is one and it is of this run.

        Raises
        ------
        TrainingError
            If it is damaged.
        """
        path = latest_checkpoint(self.folder)
        if path is None:
            return
        checkpoint = read_checkpoint(path)
        if checkpoint.state.get("run_hash") != self._run_hash:
            set_checkpoints_aside(self.folder)
            return
        place = {name: number for number, name in enumerate(self.parameters)}
        moments: dict[int, dict[str, torch.Tensor]] = {number: {} for number in place.values()}
        with torch.no_grad():
            for key, tensor in checkpoint.tensors.items():
                kind, _, name = key.partition("/")
                if kind == "weight":
                    self.parameters[name].copy_(tensor)
                elif name:
                    moments[place[name]][kind] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        torch.set_rng_state(checkpoint.tensors["rng"])
        self.losses = [float(loss) for loss in checkpoint.state["losses"]]
        self.tokens, self.seconds = checkpoint.state["tokens"], checkpoint.state["seconds"]
        logger.info("resumed %s behind step %d", path, self.step)

    def save(self) -> None:
        """Write a checkpoint.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        tensors: dict[str, torch.Tensor] = {"rng": torch.get_rng_state()}
        for name, parameter in self.parameters.items():
            tensors[f"weight/{name}"] = parameter
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"{key}/{name}"] = value
        state = {"losses": self.losses, "tokens": self.tokens, "seconds": self.seconds}
        write_checkpoint(self.folder, Checkpoint(self.step, tensors, {"run_hash": self._run_hash, **state}))
