"""Steps of a run that are done once: skipped while nothing they depend on has changed."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from reges_index.files import hash_of, read_json, sha256_of, unwritable, write_json

logger = logging.getLogger(__name__)

_POLL_S = 0.5


@dataclass(frozen=True)
class Step:
    """One step of a run.

    Attributes
    ----------
    name
        Unique within the run.
    run
        Does the work, going on where a killed run stopped; returns its report as plain data.
    output
        The file, or the folder of an adapter or a fusion, that it writes. What it leaves beside it, such as
        checkpoints, begins with the same name and a dot.
    settings
        What its output depends on, as plain data.
    inputs
        Files or adapter folders it reads: their content counts, not their place.
    everywhere
        Whether each process of a distributed run takes part; else the first one works and the others wait.
    """

    name: str
    run: Callable[[], Mapping[str, Any]]
    output: Path
    settings: Mapping[str, Any]
    inputs: tuple[Path, ...] = ()
    everywhere: bool = False

    def key(self) -> str:
        """Return the hash of all that the output depends on."""
        return hash_of({"settings": self.settings, "inputs": [content_hash(path) for path in self.inputs]})


@dataclass(frozen=True)
class StepResult:
    """What became of a step: it was done before, or it ran now."""

    name: str
    state: Literal["done before", "ran"]
    seconds: float
    output: str
    report: Mapping[str, Any] = field(default_factory=dict)


class StepLog:
    """The markers of a run's steps, in a folder.

    Each step has a JSON file: ``begun`` with the key it was begun with, then ``done`` with the hash of its
    output. Output of another key, or of no known one, is moved to ``set-aside/``, never deleted: it may
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
        key, started = step.key(), time.monotonic()
        marker = self._marker(step, key)
        if marker.get("state") == "done":
            if step.output.exists() and marker["output"] == content_hash(step.output):
                return StepResult(step.name, "done before", 0.0, str(step.output), marker["report"])
            logger.warning("step %s: %s is missing or was changed; it runs again", step.name, step.output)
        if self._rank == 0:
            if marker.get("state") != "begun":
                self._set_aside(step)
                self._write(step, {"state": "begun", "key": key, "settings": step.settings})
            logger.info("step %s", step.name)
            report = step.run()
            finished = datetime.now(UTC).isoformat(timespec="seconds")
            self._write(
                step,
                {
                    "state": "done", "key": key, "settings": step.settings, "report": report,
                    "output": content_hash(step.output), "finished": finished,
                },
            )  # fmt: skip
        else:
            if step.everywhere:
                step.run()
            # A collective would time out while a teacher writes for hours.
            while (marker := self._marker(step, key)).get("state") != "done":
                time.sleep(_POLL_S)
            report = marker["report"]
        return StepResult(step.name, "ran", time.monotonic() - started, str(step.output), report)

    def _marker(self, step: Step, key: str) -> dict[str, Any]:
        """Read a step's marker; empty where there is none, or one of another key."""
        path = self._folder / f"{step.name}.json"
        found = read_json(path) if path.exists() else {}
        return found if found.get("key") == key else {}

    def _write(self, step: Step, marker: Mapping[str, Any]) -> None:
        write_json(self._folder / f"{step.name}.json", marker)

    def _set_aside(self, step: Step) -> None:
        output = step.output
        # Checkpoints stay: training sets aside what is not its own, and a longer run goes on from them.
        beside = (path for path in output.parent.glob(f"{output.name}.*") if path.suffix != ".run")
        stale = [path for path in (output, *beside) if path.exists()]
        if not stale:
            return
        number = 1
        while (place := self._folder / "set-aside" / f"{step.name}-{number}").exists():
            number += 1
        logger.warning("step %s: settings or inputs have changed; the old output is in %s", step.name, place)
        try:
            place.mkdir(parents=True)
            for path in stale:
                path.replace(place / path.name)
        except OSError as error:
            raise unwritable(place, error) from error


def content_hash(path: Path) -> str:
    """Return the SHA-256 (hex) of a file, or of all weights and what configures them in a folder.

    Notes in a folder (dev results, model card) may be edited later; they do not count.

    Raises
    ------
    InputError
        If it is not there or cannot be read.
    """
    if not path.is_dir():
        return sha256_of(path)
    counted = ("adapter_config.json", "fusion.json")
    files = (its for its in path.rglob("*") if its.suffix == ".safetensors" or its.name in counted)
    return sha256_of(*sorted(files))
