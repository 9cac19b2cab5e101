"""Checkpoints that are written whole or not at all, and read without pickle."""

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


def set_checkpoints_aside(folder: Path) -> Path | None:
    """Move the checkpoints of a run's folder to ``set-aside-N`` in it, for a run that begins anew there.

    Left where they are they would be taken for its own: higher numbers count as newer.

    Returns
    -------
    Path or None
        Where they are now; None where there were none.

    Raises
    ------
    StorageError
        If they cannot be moved.
    """
    found = _found(folder)
    if not found:
        return None
    number = 1
    while (place := folder / f"set-aside-{number}").exists():
        number += 1
    try:
        place.mkdir()
        for path in found:
            path.replace(place / path.name)
    except OSError as error:
        hint = f"delete the checkpoints in {folder}, or name another folder"
        raise unwritable(place, error, hint) from error
    logger.warning("begun anew: the checkpoints of the run before are in %s", place)
    return place


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
