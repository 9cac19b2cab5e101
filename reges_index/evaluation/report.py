"""An evaluation from files, and the files of its report: JSON, Markdown, HTML, pictures, scores."""

from __future__ import annotations

import base64
import html
import json
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from reges_index.errors import ConfigError, StorageError
from reges_index.evaluation.baselines import RetrieveBatch
from reges_index.evaluation.data import EvaluationData
from reges_index.evaluation.diagnosis import turn_rows
from reges_index.evaluation.markdown import markdown_report
from reges_index.evaluation.plots import report_pictures
from reges_index.evaluation.predictions import TitleMatcher, load
from reges_index.evaluation.scoring import Evaluation, evaluate_systems
from reges_index.evaluation.settings import EvaluationSettings
from reges_index.evaluation.summary import score_table, summarize
from reges_index.files import json_text, write_text

__all__ = ["HTML_TURNS", "catalog_retrieve", "run_evaluation", "write_report"]

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


def script_json(value: Any) -> str:
    """Return JSON that may stand inside a ``<script>`` element whatever texts it holds."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def html_report(
    markdown: str, pictures: dict[str, Path], turns: dict[str, list[dict[str, Any]]], *, total_turns: int
) -> str:
    """Write a report.

    Parameters
    ----------
    markdown
        The report's text; HTML in it is shown, not obeyed, as system names and paths come from outside.
    pictures
        Title to PNG; they are embedded.
    turns
        For each protocol the rows of `turn_table.turn_rows`.
    total_turns
        Turns in the data, so that the page can say when it does not show all.
    """
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    figures = "".join(
        f'<figure><figcaption>{html.escape(title)}</figcaption><img alt="{html.escape(title)}" '
        f'src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"></figure>'
        for title, path in pictures.items()
    )
    template = resources.files(__package__).joinpath("report_template.html").read_text(encoding="utf-8")
    filled = {
        "@@BODY@@": body,
        "@@FIGURES@@": figures,
        "@@TURNS@@": script_json({"total": total_turns, "protocols": turns}),
    }
    # One pass, so that a text which imitates a slot is not filled in turn.
    parts = template
    pieces: list[str] = []
    for slot, text in filled.items():
        before, _, parts = parts.partition(slot)
        pieces += [before, text]
    return "".join([*pieces, parts])


def catalog_retrieve(store: str, name: str, encoder: str | None) -> RetrieveBatch:
    """Open a catalog store and return its batch retrieval, for the baseline ``retriever``."""
    from reges_index.catalog.live import open_catalog_at

    catalog = open_catalog_at(store, name, encoder)

    def retrieve(queries: list[str], top_k: int) -> list[list[str]]:
        return [[item for item, _ in found] for found in catalog.retrieve_batch(queries, top_k)]

    return retrieve


def run_evaluation(
    config: EvaluationSettings, *, command: Sequence[str] | None = None
) -> tuple[Evaluation, dict[str, Any] | None]:
    """Score the predictions and baselines, and write the report where ``config.out`` says.

    Parameters
    ----------
    command
        As for `summary.summarize`.

    Returns
    -------
    The evaluation, and what ``report.json`` holds; None where none was written.

    Raises
    ------
    ReGeSError
        As the parts say: `EvaluationData.read`, `predictions.load`, `evaluate_systems`, `write_report`.
    """
    for name in ("conversations", "catalog"):
        if not getattr(config, name):
            raise ConfigError(f"{name} is missing", hint=f"give --{name}, or {name}: in the YAML file")
    data = EvaluationData.read(config.conversations, config.catalog, config.train)
    matcher = TitleMatcher(data.items)
    systems = [load(name, path, data, matcher) for name, path in config.predictions.items()]
    retrieve = catalog_retrieve(config.store, config.name, config.encoder) if config.store else None
    evaluation = evaluate_systems(data, systems, settings=config, retrieve=retrieve)
    summary = write_report(evaluation, config.out, command=command) if config.out else None
    return evaluation, summary
