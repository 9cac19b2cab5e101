"""Checkpoints that are written whole or not at all, and read without pickle."""

from __future__ import annotations

import contextlib
import json
import logging
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

__all__ = [
    "Checkpoint",
    "latest_checkpoint",
    "read_checkpoint",
    "set_checkpoints_aside",
    "whole_folder",
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


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes ``target`` when the block ends well, and vanishes otherwise.

    An older ``target`` is replaced. Files are flushed to the disk first, so a power cut leaves the old
    folder or the new one; one that a killed run had moved out of the way, and nothing put in its place, is
    moved back.

    Raises
    ------
    StorageError
        If the disk is full or cannot be written; ``target`` is then as it was.
    """
    old = _moved(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if old.exists() and not target.exists():
            old.replace(target)
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
        _put_in_place(work, target, old)
    except (OSError, SafetensorError) as error:
        raise _unwritable(target, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _moved(target: Path) -> Path:
    """Return where an older folder is for the moment in which the new one takes its place."""
    return target.with_name(f".{target.name}-old")


def _put_in_place(work: Path, target: Path, old: Path) -> None:
    shutil.rmtree(old, ignore_errors=True)
    try:
        if target.exists():
            target.replace(old)
        work.replace(target)
    except BaseException:
        if old.exists() and not target.exists():
            with contextlib.suppress(OSError):  # the first error is the one to tell of
                old.replace(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _unwritable(target: Path, error: Exception) -> StorageError:
    reason = getattr(error, "strerror", None) or str(error)
    old = _moved(target)
    before = f"is in {old}" if old.exists() and not target.exists() else "is untouched"
    return StorageError(
        f"{target} cannot be written: {reason}",
        hint=f"free space or name another folder; what was there before {before}: resume the run",
    )


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
        save_file(tensors, work / _TENSORS)
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
        raise StorageError(
            f"{place}: cannot be written ({error.strerror})",
            hint=f"delete the checkpoints in {folder}, or name another folder",
        ) from error
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
