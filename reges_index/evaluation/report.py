"""The files of a report: JSON, Markdown, HTML, pictures, and the scores of every pair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reges_index.errors import StorageError
from reges_index.evaluation.files import write_json, write_text
from reges_index.evaluation.html import html_report
from reges_index.evaluation.markdown import markdown_report
from reges_index.evaluation.plots import report_pictures
from reges_index.evaluation.scoring import Evaluation
from reges_index.evaluation.summary import score_table, summarize
from reges_index.evaluation.turn_table import turn_rows

__all__ = ["HTML_TURNS", "write_report"]

HTML_TURNS = 1_000
"""Most turns that the HTML page carries; browsers get slow beyond. The page says how many there are."""


def write_report(
    evaluation: Evaluation, folder: str | Path, *, command: Sequence[str] | None = None
) -> dict[str, Any]:
    """Write ``report.json``, ``report.md``, ``report.html``, ``scores.json`` and PNG pictures.

    Parameters
    ----------
    folder
        Made where missing; files of an earlier report in it are replaced.
    command
        As for `summary.summarize`.

    Returns
    -------
    What ``report.json`` holds.

    Raises
    ------
    StorageError
        If the folder cannot be written.
    """
    folder = Path(folder)
    summary = summarize(evaluation, command=command)
    try:
        pictures = report_pictures(summary, folder)
    except OSError as error:
        raise StorageError(
            f"{folder}: cannot be written ({error.strerror})", hint="choose another --out, or free some space"
        ) from error
    text = markdown_report(summary)
    turns: dict[str, list[dict[str, Any]]] = {
        protocol: turn_rows(evaluation, protocol, limit=HTML_TURNS) for protocol in evaluation.pairs
    }
    page = html_report(text, pictures, turns, total_turns=len(evaluation.data.turns))
    named = {title: path.name for title, path in pictures.items()}
    write_text(folder / "report.md", markdown_report(summary, named))
    write_text(folder / "report.html", page)
    write_json(folder / "scores.json", score_table(evaluation))
    # Last, so that a report.json says that the whole report is there.
    write_json(folder / "report.json", summary)
    return summary
