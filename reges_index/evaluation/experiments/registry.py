"""The experiments by name, and running them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from reges_index.errors import ConfigError, InputError, ReGeSError
from reges_index.evaluation.experiments.fused import ablation
from reges_index.evaluation.experiments.inputs import figure8
from reges_index.evaluation.experiments.lab import Lab, NotRunnable
from reges_index.evaluation.experiments.overall import table1
from reges_index.evaluation.experiments.result import ExperimentResult, write_result
from reges_index.evaluation.experiments.retrieval import figure5, figure7, table2
from reges_index.evaluation.experiments.selection import figure6, figure9, table3, table4
from reges_index.evaluation.markdown import plain
from reges_index.files import read_json, write_json, write_text

__all__ = ["EXPERIMENTS", "choose", "run_experiments"]

logger = logging.getLogger(__name__)

# Cheap ones first, so that a run that is stopped early has most of the pictures.
EXPERIMENTS: dict[str, Callable[[Lab], ExperimentResult]] = {
    "figure5": figure5,
    "figure7": figure7,
    "table2": table2,
    "figure8": figure8,
    "ablation": ablation,
    "table4": table4,
    "table3": table3,
    "table1": table1,
    "figure6": figure6,
    "figure9": figure9,
}


Outcome: TypeAlias = Literal["done", "not_run", "failed"]


@dataclass(frozen=True)
class _Entry:
    outcome: Outcome
    text: str
    seconds: float | None = None


@dataclass
class ExperimentList:
    """What stands in ``experiments.json`` and ``experiments.md`` of a folder.

    Attributes
    ----------
    data_hash
        Of the data that all of them were made from (`EvaluationData.hash`).
    """

    data_hash: str
    _entries: dict[str, _Entry] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, data_hash: str) -> ExperimentList:
        """Return the list that a folder holds, without what was made from other data."""
        listed = cls(data_hash)
        before = _read_or_none(folder / "experiments.json") or {}
        if before.get("data_hash") == data_hash:
            for outcome in ("not_run", "failed"):
                for name, reason in before.get(outcome, {}).items():
                    listed.put(name, outcome, str(reason))
        for name in before.get("done", ()):
            # Each result says itself what it was made from, so lists of earlier versions are read too.
            result = _read_or_none(folder / f"{name}.json") or {}
            if result.get("about", {}).get("data", {}).get("hash") == data_hash:
                listed.put(name, "done", result["title"], before.get("seconds", {}).get(name))
        return listed

    def put(self, name: str, outcome: Outcome, text: str, seconds: float | None = None) -> None:
        """Note an experiment, in place of what was noted of it before.

        Parameters
        ----------
        text
            Its title if it is done, else the reason.
        seconds
            That it took.
        """
        self._entries[name] = _Entry(outcome, text, seconds)

    def write(self, folder: Path, order: Iterable[str]) -> None:
        """Write both files, experiments in the given order; raise `StorageError` where that fails."""
        entries = {name: self._entries[name] for name in order if name in self._entries}
        lines = ["# Experiments", ""]
        for name, entry in entries.items():
            if entry.outcome == "done":
                lines.append(f"- [{plain(entry.text)}]({name}.md)")
            else:
                lines.append(f"- {name}: {entry.outcome.replace('_', ' ')}, {plain(entry.text)}")
        write_text(folder / "experiments.md", "\n".join(lines) + "\n")
        value = {
            "data_hash": self.data_hash,
            "done": [name for name, entry in entries.items() if entry.outcome == "done"],
            "not_run": {n: e.text for n, e in entries.items() if e.outcome == "not_run"},
            "failed": {n: e.text for n, e in entries.items() if e.outcome == "failed"},
            "seconds": {n: e.seconds for n, e in entries.items() if e.seconds is not None},
        }
        write_json(folder / "experiments.json", value)


def _read_or_none(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path)
    except InputError:  # not there, or cut off by a killed run of an earlier version
        return None


def choose(names: Sequence[str]) -> list[str]:
    """Return the experiments named, in the order in which they run; ``all`` names every one.

    Raises
    ------
    ConfigError
        For an unknown name.
    """
    unknown = [name for name in names if name not in (*EXPERIMENTS, "all")]
    if unknown:
        raise ConfigError(
            f"unknown experiment {unknown[0]!r}", hint=f"experiments are {', '.join(EXPERIMENTS)}, all"
        )
    return [name for name in EXPERIMENTS if name in names or "all" in names]


def run_experiments(lab: Lab, names: Sequence[str]) -> dict[str, Any]:
    """Run experiments; each one's files, and the list of all, are written as soon as it is done.

    An experiment that fails does not stop the others. ``experiments.json`` and ``experiments.md`` keep what
    earlier calls made in the same folder from the same data.

    Returns
    -------
    ``{"done": {name: what NAME.json holds}, "not_run": {name: reason}, "failed": {name: error}, "seconds":
    {name: time}}`` of this call; an error is ``{"kind", "message", "hint", "exit_code"}``.

    Raises
    ------
    ConfigError
        For an unknown name.
    StorageError
        If the list cannot be written.
    """
    done: dict[str, Any] = {}
    refused: dict[str, str] = {}
    failed: dict[str, dict[str, Any]] = {}
    seconds: dict[str, float] = {}
    listed = ExperimentList.read(lab.folder, lab.data.hash)
    for name in choose(names):
        start = time.perf_counter()
        try:
            result = EXPERIMENTS[name](lab)
            done[name] = write_result(result, lab.folder, lab.about())
        except NotRunnable as error:
            refused[name] = error.message
            logger.warning("%s cannot run: %s", name, error.message)
            listed.put(name, "not_run", error.message)
        except ReGeSError as error:
            failed[name] = {
                "kind": type(error).__name__,
                "message": error.message,
                "hint": error.hint,
                "exit_code": error.exit_code,
            }
            logger.error("%s failed: %s", name, error)
            listed.put(name, "failed", error.message)
        else:
            seconds[name] = time.perf_counter() - start
            logger.info("%s took %.0f s", name, seconds[name])
            listed.put(name, "done", done[name]["title"], seconds[name])
        listed.write(lab.folder, EXPERIMENTS)
    return {"done": done, "not_run": refused, "failed": failed, "seconds": seconds}
