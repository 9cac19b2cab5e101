"""Checkpoints that are written whole or not at all, and read without pickle."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from reges_index.errors import StorageError, TrainingError

__all__ = ["Checkpoint", "latest_checkpoint", "read_checkpoint", "whole_folder", "write_checkpoint"]

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


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes ``target`` when the block ends well, and vanishes otherwise.

    An older ``target`` is replaced. Files are flushed to the disk first, so a power cut leaves the old
    folder or the new one.

    Raises
    ------
    StorageError
        If the disk is full or cannot be written; ``target`` is then as it was.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise _unwritable(target, error) from error
    try:
        yield work
        for file in work.rglob("*"):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        work.chmod(target.parent.stat().st_mode & 0o777)
        old = target.with_name(f".{target.name}-old")
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.replace(old)
        work.replace(target)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise _unwritable(target, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _unwritable(target: Path, error: Exception) -> StorageError:
    reason = getattr(error, "strerror", None) or str(error)
    return StorageError(
        f"{target} cannot be written: {reason}",
        hint="free space or name another folder; what was there before is untouched: resume the run",
    )


def write_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int = 2) -> Path:
    """Write a checkpoint into a run's folder and delete all but the ``keep`` newest.

    Raises
    ------
    StorageError
        If it cannot be written; older checkpoints are kept.
    """
    target = folder / f"{_PREFIX}{checkpoint.step}"
    with whole_folder(target) as work:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
        save_file(tensors, work / _TENSORS)
        text = json.dumps({"step": checkpoint.step, **checkpoint.state})
        (work / _STATE).write_text(text, encoding="utf-8")
    for old in _found(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


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
