"""The files of a report: JSON, Markdown, HTML, pictures, and the scores of every pair."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reges_index.errors import StorageError
from reges_index.evaluation.files import json_text, write_text
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

    All of it is made before any file is replaced, so that what fails leaves an earlier report as it was.

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
    texts = {"scores.json": json_text(score_table(evaluation)), "report.json": json_text(summary)}
    turns: dict[str, list[dict[str, Any]]] = {
        protocol: turn_rows(evaluation, protocol, limit=HTML_TURNS) for protocol in evaluation.pairs
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as beside:
            pictures = report_pictures(summary, Path(beside))
            named = {title: path.name for title, path in pictures.items()}
            page = html_report(
                markdown_report(summary), pictures, turns, total_turns=len(evaluation.data.turns)
            )
            texts = {"report.md": markdown_report(summary, named), "report.html": page, **texts}
            for path in pictures.values():
                path.replace(folder / path.name)
    except OSError as error:
        raise StorageError(
            f"{folder}: cannot be written ({error.strerror})", hint="choose another --out, or free some space"
        ) from error
    # report.json comes last: it says that the whole report is there.
    for name, text in texts.items():
        write_text(folder / name, text)
    return summary
