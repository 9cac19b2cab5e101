"""Steps of a run that are done once: skipped while nothing they depend on has changed."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from reges_index.errors import InputError
from reges_index.files import hash_of, sha256_of, unwritable, write_json

__all__ = ["Step", "StepLog", "StepResult", "content_hash"]

logger = logging.getLogger(__name__)

_POLL_S = 0.5
# An adapter is its weights; notes in its folder (dev results, model card) may be edited later.
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
# A fusion is its numbers and, where it has one, the adapter of its query tower.
_FUSION_FILES = ("fusion.json", "fusion.safetensors")
_FUSION_TOWER = "query-tower"


@dataclass(frozen=True)
class Step:
    """One step of a run.

    Attributes
    ----------
    name
        Unique within the run.
    run
        Does the work, going on where a killed run stopped; returns its report as plain data.
    outputs
        Files, or folders of an adapter or a fusion, that it writes.
    settings
        What its outputs depend on, as plain data.
    inputs
        Files or adapter folders it reads: their content counts, not their place.
    scratch
        What else it leaves (checkpoints), of no use once settings or inputs have changed.
    everywhere
        Whether each process of a distributed run takes part; else the first one works and the others wait.
    """

    name: str
    run: Callable[[], Mapping[str, Any]]
    outputs: tuple[Path, ...]
    settings: Mapping[str, Any]
    inputs: tuple[Path, ...] = ()
    scratch: tuple[Path, ...] = ()
    everywhere: bool = False

    def key(self) -> str:
        """Return the hash of all that the outputs depend on."""
        parts = {"settings": self.settings, "inputs": [content_hash(path) for path in self.inputs]}
        return hash_of(parts)


@dataclass(frozen=True)
class StepResult:
    """What became of a step: it was done before, or it ran now."""

    name: str
    state: Literal["done before", "ran"]
    seconds: float
    outputs: tuple[str, ...]
    report: Mapping[str, Any] = field(default_factory=dict)


class StepLog:
    """The markers of a run's steps, in a folder.

    Each step has a JSON file: ``begun`` with the key it was begun with, then ``done`` with the hashes of its
    outputs. Outputs of another key, or of no known one, are moved to ``set-aside/``, never deleted: they may
    have cost money.

    Parameters
    ----------
    folder
        Made when missing.
    rank
        Number of this process in a distributed run; only the first one writes.
    """

    def __init__(self, folder: Path, *, rank: int | None = None) -> None:
        self._folder = folder
        self._rank = int(os.environ.get("RANK", "0")) if rank is None else rank

    def do(self, step: Step) -> StepResult:
        """Run a step unless it is done.

        Raises
        ------
        StorageError
            If a marker cannot be written.
        ReGeSError
            Whatever the step raises; it counts as begun then.
        """
        key = step.key()
        done = self._done(step, key)
        if done is not None:
            return StepResult(step.name, "done before", 0.0, _names(step), done)
        started = time.monotonic()
        report: Mapping[str, Any] = {}
        if self._rank == 0:
            self._begin(step, key)
            logger.info("step %s", step.name)
            report = step.run()
            self._write(
                step,
                {
                    "state": "done", "key": key, "settings": step.settings, "report": report,
                    "outputs": {str(path): content_hash(path) for path in step.outputs},
                    "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                },
            )  # fmt: skip
        else:
            if step.everywhere:
                step.run()
            report = self._wait(step, key)
        return StepResult(step.name, "ran", time.monotonic() - started, _names(step), report)

    def _marker(self, step: Step) -> Path:
        return self._folder / f"{step.name}.json"

    def _read(self, step: Step) -> dict[str, Any]:
        marker = self._marker(step)
        if not marker.exists():
            return {}
        try:
            found = json.loads(marker.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{marker}: cannot be read: {error}", hint="delete it") from error
        return found if isinstance(found, dict) else {}

    def _write(self, step: Step, state: Mapping[str, Any]) -> None:
        write_json(self._marker(step), state)

    def _done(self, step: Step, key: str) -> Mapping[str, Any] | None:
        marker = self._read(step)
        if marker.get("state") != "done" or marker.get("key") != key:
            return None
        for path in step.outputs:
            if not path.exists() or marker["outputs"].get(str(path)) != content_hash(path):
                logger.warning("step %s: %s is missing or was changed; it runs again", step.name, path)
                return None
        report: Mapping[str, Any] = marker.get("report", {})
        return report

    def _begin(self, step: Step, key: str) -> None:
        marker = self._read(step)
        if marker.get("key") != key or marker.get("state") == "done":
            stale = [path for path in (*step.outputs, *step.scratch) if path.exists()]
            if stale:
                self._set_aside(step, stale)
            self._write(step, {"state": "begun", "key": key, "settings": step.settings})

    def _set_aside(self, step: Step, stale: list[Path]) -> None:
        number = 1
        while (place := self._folder / "set-aside" / f"{step.name}-{number}").exists():
            number += 1
        logger.warning(
            "step %s: settings or inputs have changed; the old outputs are in %s", step.name, place
        )
        try:
            for path in stale:
                (place / path.parent.name).mkdir(parents=True, exist_ok=True)
                path.replace(place / path.parent.name / path.name)
        except OSError as error:
            raise unwritable(place, error) from error

    def _wait(self, step: Step, key: str) -> Mapping[str, Any]:
        """Wait for the first process; a collective would time out while a teacher writes for hours."""
        while (report := self._done_quietly(step, key)) is None:
            time.sleep(_POLL_S)
        return report

    def _done_quietly(self, step: Step, key: str) -> Mapping[str, Any] | None:
        marker = self._read(step)
        if marker.get("state") != "done" or marker.get("key") != key:
            return None
        report: Mapping[str, Any] = marker.get("report", {})
        return report


def content_hash(path: Path) -> str:
    """Return the SHA-256 (hex) of a file, or of the weights and configuration of an adapter or a fusion.

    Raises
    ------
    InputError
        If it is not there or cannot be read.
    """
    return sha256_of(*(_whole(path) if path.is_dir() else [path]))


def _whole(folder: Path) -> list[Path]:
    """Return the files that make a folder what it is."""
    if not (folder / _FUSION_FILES[0]).exists():
        return [folder / name for name in _ADAPTER_FILES]
    tower = folder / _FUSION_TOWER
    return [
        *(folder / name for name in _FUSION_FILES),
        *(tower / name for name in _ADAPTER_FILES if tower.is_dir()),
    ]


def _names(step: Step) -> tuple[str, ...]:
    return tuple(map(str, step.outputs))
