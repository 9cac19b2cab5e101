"""The experiments by name, and running them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from reges_index.errors import ConfigError, ReGeSError
from reges_index.evaluation.experiments.answers import figure9, table3
from reges_index.evaluation.experiments.fused import ablation
from reges_index.evaluation.experiments.inputs import figure8
from reges_index.evaluation.experiments.lab import Lab, NotRunnable
from reges_index.evaluation.experiments.listing import ExperimentList
from reges_index.evaluation.experiments.overall import table1
from reges_index.evaluation.experiments.result import ExperimentResult, write_result
from reges_index.evaluation.experiments.retrieval import figure5, figure7, table2
from reges_index.evaluation.experiments.selection import figure6, table4

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
