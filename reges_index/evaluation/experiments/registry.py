"""The experiments by name, and running them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from reges_index.errors import ConfigError
from reges_index.evaluation.experiments.answers import figure9, table3
from reges_index.evaluation.experiments.fused import ablation
from reges_index.evaluation.experiments.inputs import figure8
from reges_index.evaluation.experiments.lab import Lab, NotRunnable
from reges_index.evaluation.experiments.overall import table1
from reges_index.evaluation.experiments.result import ExperimentResult, write_result
from reges_index.evaluation.experiments.retrieval import figure5, figure7, table2
from reges_index.evaluation.experiments.selection import figure6, table4
from reges_index.evaluation.files import write_json, write_text
from reges_index.evaluation.markdown import plain

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
    """Run experiments; each one's files are written as soon as it is done.

    Returns
    -------
    ``{"done": {name: what NAME.json holds}, "not_run": {name: reason}, "seconds": {name: time}}``.

    Raises
    ------
    ConfigError
        For an unknown name.
    """
    done: dict[str, Any] = {}
    refused: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for name in choose(names):
        start = time.perf_counter()
        try:
            result = EXPERIMENTS[name](lab)
        except NotRunnable as error:
            refused[name] = error.message
            logger.warning("%s cannot run: %s", name, error.message)
            continue
        done[name] = write_result(result, lab.folder, lab.about())
        seconds[name] = time.perf_counter() - start
        logger.info("%s took %.0f s", name, seconds[name])
    _write_index(lab.folder, done, refused)
    write_json(lab.folder / "experiments.json", {"done": list(done), "not_run": refused, "seconds": seconds})
    return {"done": done, "not_run": refused, "seconds": seconds}


def _write_index(folder: Path, done: dict[str, Any], refused: dict[str, str]) -> None:
    lines = ["# Experiments", ""]
    lines += [f"- [{value['title']}]({name}.md)" for name, value in done.items()]
    lines += [f"- {name}: not run, {plain(reason)}" for name, reason in refused.items()]
    write_text(folder / "experiments.md", "\n".join(lines) + "\n")
