"""What stands beside the numbers of an experiment: title, how to read it, notes, and the paper's values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

import yaml
from matplotlib.figure import Figure

from reges_index.evaluation.result import Result, Row
from reges_index.evaluation.stats import Comparison, adjusted

_TEXTS: dict[str, Any] = yaml.safe_load(
    resources.files(__package__).joinpath("experiments.yaml").read_text(encoding="utf-8")
)
PAPER: dict[str, Any] = _TEXTS["paper"]
"""The paper's numbers, by table or figure; ``experiments.yaml`` says what each is."""


def described(
    name: str,
    rows: Sequence[Row],
    *,
    comparisons: Sequence[Comparison] = (),
    left_out: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
    draw: Callable[[], Figure] | None = None,
    **words: object,
) -> Result:
    """Return the result of an experiment with the texts of ``experiments.yaml``.

    Parameters
    ----------
    draw
        Draws the picture; None where there is nothing to draw.
    words
        Fill the braces of the notes.
    """
    texts = _TEXTS[name]
    return Result(
        name=name,
        title=texts["title"],
        source=texts["source"],
        reading=texts["reading"],
        rows=list(rows),
        comparisons=adjusted(comparisons),
        notes=[note.format(**words) for note in texts["notes"]],
        left_out=dict(left_out or {}),
        extra=dict(extra or {}),
        pictures={name: draw} if draw is not None else {},
    )
