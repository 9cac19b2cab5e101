"""The experiments by name, and running them."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from reges_index.errors import ConfigError, InputError, ReGeSError
from reges_index.evaluation.experiments.inputs import figure8
from reges_index.evaluation.experiments.lab import Lab, NotRunnable
from reges_index.evaluation.experiments.retrieval import figure5, figure7, table2
from reges_index.evaluation.experiments.selection import ablation, figure6, figure9, table1, table3, table4
from reges_index.evaluation.result import Result, plain, write_result
from reges_index.files import read_json, write_files

logger = logging.getLogger(__name__)

# Cheap ones first, so that a run that is stopped early has most of the pictures.
EXPERIMENTS: dict[str, Callable[[Lab], Result]] = {
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

    An experiment that fails does not stop the others. ``experiments.md`` names all that the folder holds of
    the same data, and those of this call that cannot run or failed, with the reason.

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
    outcome: dict[str, dict[str, Any]] = {"done": {}, "not_run": {}, "failed": {}, "seconds": {}}
    for name in choose(names):
        start = time.perf_counter()
        try:
            outcome["done"][name] = write_result(EXPERIMENTS[name](lab), lab.folder, lab.about())
            outcome["seconds"][name] = time.perf_counter() - start
        except NotRunnable as error:
            outcome["not_run"][name] = error.message
            logger.warning("%s cannot run: %s", name, error.message)
        except ReGeSError as error:
            outcome["failed"][name] = {
                "kind": type(error).__name__,
                "message": error.message,
                "hint": error.hint,
                "exit_code": error.exit_code,
            }
            logger.error("%s failed: %s", name, error)
        _write_list(lab, outcome)
    return outcome


def _write_list(lab: Lab, outcome: dict[str, dict[str, Any]]) -> None:
    lines = ["# Experiments", ""]
    for name in EXPERIMENTS:
        with contextlib.suppress(InputError):  # there is none, or it is of another version
            result = read_json(lab.folder / f"{name}.json")
            if result["about"]["data"]["hash"] == lab.data.hash:
                lines.append(f"- [{plain(result['title'])}]({name}.md)")
    lines += [f"- {name}: not run, {plain(reason)}" for name, reason in outcome["not_run"].items()]
    lines += [f"- {name}: failed, {plain(error['message'])}" for name, error in outcome["failed"].items()]
    write_files({lab.folder / "experiments.md": ("\n".join(lines) + "\n").encode()})
