"""What an experiment gives: rows that hold ours and the paper's value, notes, and a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from reges_index.errors import StorageError
from reges_index.evaluation.files import json_text, write_text
from reges_index.evaluation.markdown import interval, made_with, p_value, plain, table
from reges_index.evaluation.plots import save
from reges_index.evaluation.provenance import provenance

__all__ = ["ComparisonRow", "ExperimentResult", "Row", "write_result"]

SPLIT_NOTE = (
    "The paper's values are from the test splits and from larger models (section 3.3); ours are from the "
    "conversations named below, so the two columns show different things side by side."
)


@dataclass(frozen=True)
class Row:
    """One number.

    Attributes
    ----------
    system, setting, protocol, metric
        What was measured; ``protocol`` is empty where it does not matter.
    value, low, high
        Ours, with its interval where there is one; None where the system cannot run here.
    n
        Over how many pairs, turns or texts.
    paper, paper_setting
        The paper's value for the nearest system, and what it is of.
    """

    system: str
    setting: str
    protocol: str
    metric: str
    value: float | None
    n: int
    low: float | None = None
    high: float | None = None
    paper: float | None = None
    paper_setting: str = ""


@dataclass(frozen=True)
class ComparisonRow:
    """A system against another on the same pairs: first minus second, and the relative gain.

    ``p_holm`` allows for all pairs of systems that stand in the same table (setting, protocol, metric).
    """

    first: str
    second: str
    setting: str
    protocol: str
    metric: str
    value: float
    low: float
    high: float
    p: float
    p_holm: float
    gain: float | None
    paper_gain: float | None = None


@dataclass(frozen=True)
class ExperimentResult:
    """The outcome of a named experiment.

    Attributes
    ----------
    name, title, source
        Such as ``table4``, and where the paper has it.
    rows, comparisons
        The numbers.
    notes
        How it was done and what to keep in mind.
    left_out
        Systems that did not run, with the reason.
    extra
        More data for the JSON.
    draw
        Draws the picture; None where there is nothing to draw.
    """

    name: str
    title: str
    source: str
    rows: list[Row]
    comparisons: list[ComparisonRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    draw: Callable[[], Figure] | None = None


def _cell(value: float | None, low: float | None = None, high: float | None = None) -> str:
    if value is None:
        return "not run"
    if low is None or high is None:
        return f"{value:.4f}"
    return interval({"value": value, "low": low, "high": high}, 4)


def result_markdown(result: ExperimentResult, about: dict[str, Any], picture: str | None) -> str:
    """Write a result as Markdown."""
    of_paper = any(row.paper is not None for row in result.rows)
    rows = [
        [
            *(row.system, row.setting, row.protocol, row.metric, _cell(row.value, row.low, row.high), row.n),
            *(["" if row.paper is None else f"{row.paper:.4f}", row.paper_setting] if of_paper else []),
        ]
        for row in result.rows
    ]
    header = ["system", "setting", "protocol", "metric", "ours", "n"]
    header += ["paper", "paper's setting"] if of_paper else []
    parts = [f"# {result.title}", f"{result.source}." + (f" {SPLIT_NOTE}" if of_paper else "")]
    parts.append(table(header, rows))
    if result.comparisons:
        compared = [
            [
                *(c.first, c.second, c.setting, c.protocol, c.metric),
                *(interval(asdict(c), 4), p_value(c.p), p_value(c.p_holm)),
                "" if c.gain is None else f"{c.gain:+.0%}",
                "" if c.paper_gain is None else f"{c.paper_gain:+.0%}",
            ]
            for c in result.comparisons
        ]
        header = ["first", "second", "setting", "protocol", "metric", "first minus second", "p", "p (Holm)"]
        parts += ["## Differences", table([*header, "gain", "paper's gain"], compared)]
    if picture:
        parts.append(f"![{result.title}]({picture})")
    if result.left_out:
        parts += [
            "## Not run",
            "\n".join(f"- {plain(n)}: {plain(why)}" for n, why in result.left_out.items()),
        ]
    if result.notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in result.notes)]
    made = about["provenance"]
    parts += [
        "## How this was made",
        "\n".join(
            [
                f"- command: `{made['command']}`",
                f"- time: {made['time']}; data hash `{about['data']['hash']}`",
                *(
                    f"- {name}: `{f['path']}` (SHA-256 `{f['sha256']}`)"
                    for name, f in about["data"]["files"].items()
                ),
                f"- model: {plain(about['model'])}; adapters: {plain(about['adapters'] or 'none')}",
                f"- encoder: {plain(about['encoder'])}; prompts: {plain(about['prompts'])}",
                f"- settings: {plain(about['settings'])}",
                *made_with(made),
            ]
        ),
    ]
    return "\n\n".join(parts) + "\n"


def write_result(result: ExperimentResult, folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Write ``NAME.json``, ``NAME.md`` and, where there is a picture, ``NAME.png``.

    Parameters
    ----------
    about
        Data, model, adapters and settings (`lab.Lab.about`); the provenance is added.

    Returns
    -------
    What the JSON file holds.
    """
    about = {**about, "provenance": provenance(about.get("command"))}
    value = {
        "experiment": result.name,
        "title": result.title,
        "source": result.source,
        "rows": [asdict(row) for row in result.rows],
        "comparisons": [asdict(c) for c in result.comparisons],
        "notes": [
            *([SPLIT_NOTE] if any(row.paper is not None for row in result.rows) else []),
            *result.notes,
        ],
        "left_out": result.left_out,
        **result.extra,
        "about": about,
    }
    text = json_text(value)  # before anything is written: it refuses NaN
    picture = None
    if result.draw is not None:
        try:
            picture = save(result.draw(), folder / f"{result.name}.png").name
        except OSError as error:
            raise StorageError(
                f"{folder}: cannot be written ({error.strerror})", hint="free some space"
            ) from error
    write_text(folder / f"{result.name}.md", result_markdown(result, about, picture))
    write_text(folder / f"{result.name}.json", text)
    return value
