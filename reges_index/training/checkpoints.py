"""What a run needs to go on where it stopped: whole checkpoints, written and read without pickle."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from reges_index.errors import TrainingError
from reges_index.files import unwritable, whole_folder

logger = logging.getLogger(__name__)

_PREFIX = "checkpoint-"
_STATE = "state.json"
_TENSORS = "tensors.safetensors"
_KEPT = 2


def _found(folder: Path) -> list[Path]:
    found = [p for p in folder.glob(f"{_PREFIX}*") if p.name[len(_PREFIX) :].isdigit()]
    return sorted(found, key=lambda p: int(p.name[len(_PREFIX) :]))


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint of a run's folder, or None."""
    found = _found(folder)
    return found[-1] if found else None


def _set_aside(folder: Path) -> None:
    """Move the checkpoints of another run away: left there, higher numbers would count as newer."""
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
            If it is damaged (by something else than this package, which writes whole folders only).
        StorageError
            If it is of another run and cannot be moved.
        """
        path = latest_checkpoint(self.folder)
        if path is None:
            return
        try:
            kept = json.loads((path / _STATE).read_text(encoding="utf-8"))
            tensors = load_file(path / _TENSORS)
        except (OSError, ValueError, SafetensorError) as error:
            raise TrainingError(
                f"{path} is no checkpoint that can be read: {error}",
                hint="delete that folder; the run goes on from the one before it, or from the start",
            ) from error
        if kept.get("run_hash") != self._run_hash:
            _set_aside(self.folder)
            return
        place = {name: number for number, name in enumerate(self.parameters)}
        moments: dict[int, dict[str, torch.Tensor]] = {number: {} for number in place.values()}
        with torch.no_grad():
            for key, tensor in tensors.items():
                kind, _, name = key.partition("/")
                if kind == "weight":
                    self.parameters[name].copy_(tensor)
                elif name:
                    moments[place[name]][kind] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        torch.set_rng_state(tensors["rng"])
        self.losses, self.tokens, self.seconds = kept["losses"], kept["tokens"], kept["seconds"]
        logger.info("resumed %s behind step %d", path, self.step)

    def save(self) -> None:
        """Write a checkpoint, and delete all but it and the one before.

        Raises
        ------
        StorageError
            If it cannot be written; older checkpoints are kept.
        """
        tensors: dict[str, torch.Tensor] = {"rng": torch.get_rng_state()}
        for name, parameter in self.parameters.items():
            tensors[f"weight/{name}"] = parameter
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"{key}/{name}"] = value
        kept = {"losses": self.losses, "tokens": self.tokens, "seconds": self.seconds}
        target = self.folder / f"{_PREFIX}{self.step}"
        with whole_folder(target) as work:
            try:
                whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
                save_file(whole, work / _TENSORS)
            except SafetensorError as error:  # what it says of a full disk
                raise OSError(str(error)) from error
            text = json.dumps({"run_hash": self._run_hash, **kept})
            (work / _STATE).write_text(text, encoding="utf-8")
        for old in [path for path in _found(self.folder) if path != target][: 1 - _KEPT]:
            shutil.rmtree(old, ignore_errors=True)
