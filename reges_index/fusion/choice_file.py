"""Fitting the final choice of a fusion on a file of turns whose candidates LLM_G has ranked."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reges_index.errors import InputError
from reges_index.fusion.calibration import calibration
from reges_index.fusion.fit_choice import Choice, cross_fit, fit_choice
from reges_index.fusion.model import FusionModel

__all__ = ["ChoiceReport", "fit_choice_file", "read_choices"]


@dataclass(frozen=True)
class ChoiceReport:
    """What was fitted.

    Attributes
    ----------
    turns
        How many the file holds.
    retrieval, model
        The weights; see `ChoiceWeights`.
    cross_fitted
        ``turns_right`` (share), ``ece`` (expected calibration error) and its ``bins``, by weights that were
        fitted on other dialogues.
    """

    turns: int
    retrieval: float
    model: float
    cross_fitted: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return asdict(self)


def read_choices(path: str | Path) -> list[Choice]:
    """Read turns, one a line: ``{"dialogue", "retrieval", "logprobs", "targets"}``, fields of `Choice`.

    Raises
    ------
    InputError
        Naming file and line: no such file, malformed JSON, a field missing, lists of different lengths, a
        number that is not finite; or when there is no turn in it.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}", hint="check the path") from error
    choices = [_choice(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not choices:
        raise InputError(f"{path}: no turn in it", hint="one JSON object a line")
    return choices


def _choice(line: str, where: str) -> Choice:
    try:
        row = json.loads(line)
        told = row["logprobs"]
        choice = Choice(
            str(row["dialogue"]),
            tuple(map(float, row["retrieval"])),
            None if told is None else tuple(map(float, told)),
            tuple(map(bool, row["targets"])),
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{where}: no choice: {type(error).__name__}: {error}",
            hint='each line is {"dialogue": id, "retrieval": [...], "logprobs": [...] or null, '
            '"targets": [true, ...]}',
        ) from error
    numbers = (*choice.retrieval, *(choice.logprobs or ()))
    if wrong := [number for number in numbers if not math.isfinite(number)]:
        raise InputError(
            f"{where}: {wrong[0]} is no finite number",
            hint="leave the turn out, or give null for logprobs where LLM_G has not scored all candidates",
        )
    told_of = choice.targets if choice.logprobs is None else choice.logprobs
    lengths = {len(choice.retrieval), len(choice.targets), len(told_of)}
    if len(lengths) > 1 or not choice.targets:
        raise InputError(
            f"{where}: retrieval, logprobs and targets have different lengths or none",
            hint="one number for each candidate in all of them",
        )
    return choice


def fit_choice_file(model: str | Path, choices: str | Path, out: str | Path) -> ChoiceReport:
    """Fit the final choice of a model and write the model with the new weights.

    Parameters
    ----------
    model, out
        Folder to read and folder to write.
    choices
        As for `read_choices`.

    Raises
    ------
    InputError
        If the choices cannot be read.
    TrainingError
        If no turn has a target among its candidates, or only turns of one dialogue do.
    ModelNotFoundError, ModelError
        If the model is missing or damaged.
    StorageError
        If the model cannot be written.
    """
    fusion, rows = FusionModel.load(model), read_choices(choices)
    weights, made = fit_choice(rows), cross_fit(rows)
    hits = [row.targets[int(np.argmax(chances))] for row, chances in zip(rows, made, strict=True)]
    found = calibration([max(chances) for chances in made], hits)
    # Last, so that nothing is written where the report cannot be made.
    fusion.with_choice(weights).save(out)
    return ChoiceReport(
        len(rows),
        weights.retrieval,
        weights.model,
        {"turns_right": float(np.mean(hits)), "ece": found.error, "bins": found.bins},
    )
