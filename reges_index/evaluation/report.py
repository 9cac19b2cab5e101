"""An evaluation from files, and its report: rows, pictures, and a page of all turns."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from reges_index.errors import ConfigError
from reges_index.evaluation.baselines import BASELINES, RetrieveBatch
from reges_index.evaluation.calibration import Calibration, calibration_of
from reges_index.evaluation.data import EvaluationData
from reges_index.evaluation.diagnosis import group_rows, lost_rows, turn_rows
from reges_index.evaluation.metrics import METRICS, profile_recommendations
from reges_index.evaluation.plots import draw_reliability, draw_rows
from reges_index.evaluation.predictions import AlignedPredictions, TitleMatcher, load
from reges_index.evaluation.result import Result, Row, result_files, result_markdown, result_value
from reges_index.evaluation.scoring import Evaluation, evaluate_systems
from reges_index.evaluation.settings import EvaluationSettings
from reges_index.files import write_files

HTML_TURNS = 1_000
"""Most turns that the HTML page carries; browsers get slow beyond. The page says how many there are."""

_SHORT = ("rec_success_rate", "recall@10", "recall@50")
_PROTOCOLS = {
    "all": "every target counts, mentioned items stay in the ranking",
    "new": "only targets not mentioned before; mentioned items leave the ranking",
}
_COUNTS = {
    "unknown_turns": "predictions for turns that are not in the data (ignored)",
    "missing_turns": "turns without a prediction (scored as misses)",
    "empty_rankings": "empty rankings",
    "doubles_dropped": "items listed twice in a ranking (the later one dropped)",
    "outside_catalog": "entries that are no catalog item (misses, place kept)",
    "ambiguous_titles": "titles that fit several items (the catalog's first taken)",
}


def report_result(evaluation: Evaluation) -> Result:
    """Return an evaluation as rows: measures, where targets are lost, what is recommended, groups, times."""
    named = {metric: metric for metric in METRICS}
    main = evaluation.rows(named, part="Per target (every pair counts the same, as in the literature)")
    rows = [
        *main,
        *evaluation.rows(named, averaging="dialogue", part="Per dialogue (every dialogue counts the same)"),
    ]
    lost = lost_rows(evaluation)
    groups = group_rows(evaluation)
    rows += [*lost, *_profiles(evaluation), *groups]
    s = evaluation.settings
    stated: dict[str, dict[str, Any]] = {}
    notes = [_protocol_note(name, own.counts) for name, own in evaluation.pairs.items()]
    described = {}
    for system in evaluation.systems:
        found = calibration_of(system, evaluation.data, resamples=s.resamples, seed=s.seed, level=s.level)
        if found is not None:
            stated[system.name] = {**asdict(found), "bins": [b._asdict() for b in found.bins]}
        if system.name not in BASELINES:
            rows += _answers(system, found)
            notes += _system_notes(system)
        described[system.name] = {
            "source": system.source,
            "counts": system.counts,
            "examples": system.examples,
            "matching": system.matching,
            "calibration": stated.get(system.name),
        }
    recall = [row for row in main if row.metric.startswith("recall")]
    success = [row for row in groups if row.metric == "rec_success_rate"]
    pictures: dict[str, Callable[[], Figure]] = {
        "recall": partial(draw_rows, recall, "Recall"),
        "fates": partial(draw_rows, lost, "Where targets are lost"),
        "groups": partial(draw_rows, success, "Rec Success Rate by length and mentions"),
    }
    if stated:
        pictures["reliability"] = partial(draw_reliability, stated)
    return Result(
        name="report",
        title="Evaluation",
        source=f"{len(evaluation.data.turns)} turns, {len(evaluation.data.items)} items, "
        f"{len(evaluation.data.train)} train turns",
        reading="Protocol `all` counts every target, `new` only those that the dialogue has not named. "
        "Intervals and tests are over whole dialogues.",
        rows=rows,
        comparisons=evaluation.compare(evaluation.every_pair(), named),
        notes=notes,
        left_out={f"baseline {name}": why for name, why in evaluation.missing_baselines.items()},
        short=_SHORT,
        extra={
            "systems": described,
            "protocols": {protocol: pairs.counts for protocol, pairs in evaluation.pairs.items()},
        },
        pictures=pictures if rows and evaluation.scores else {},
    )


def _protocol_note(protocol: str, counts: Mapping[str, int]) -> str:
    more = "".join(
        f"; {name.replace('_', ' ')}: {count}" for name, count in list(counts.items())[4:] if count
    )
    said = (
        f"{counts['pairs']} (turn, target) pairs from {counts['turns_counted']} of {counts['turns']} turns "
        f"in {counts['dialogues_counted']} dialogues"
        if counts["pairs"]
        else "no pair is left, so there is nothing to score"
    )
    return f"Protocol `{protocol}` ({_PROTOCOLS[protocol]}): {said}{more}."


def _system_notes(system: AlignedPredictions) -> list[str]:
    source = system.source
    name = system.name
    notes = [f"{name}: `{source['path']}` (SHA-256 `{source['sha256']}`)."] if source else []
    made = [(key, value) for key, value in source.get("settings", {}).items() if value is not None]
    flat = [
        (f"{key}.{inner}", own)
        for key, value in made
        for inner, own in (value.items() if isinstance(value, dict) else [("", value)])
    ]
    if flat:
        said = ", ".join(f"{key.removesuffix('.')}={value}" for key, value in flat if value is not None)
        notes.append(f"{name} was made with {said}.")
    notes += [f"{name}: {count} {_COUNTS[key]}." for key, count in system.counts.items() if count]
    matched = ", ".join(f"{count} {kind}" for kind, count in system.matching.items() if count)
    return [*notes, f"{name}: entries matched: {matched or 'none'}."]


def _profiles(evaluation: Evaluation) -> list[Row]:
    data = evaluation.data
    rows = []
    for protocol in evaluation.scores:
        pairs = evaluation.pairs[protocol]
        for system in evaluation.systems:
            profile = profile_recommendations(
                pairs, system.rankings, data.positions, data.popularity, system.recommended
            )
            turns = pairs.counts["turns_counted"]
            rows += [
                Row(system.name, "", protocol, name, value, turns, part="What is recommended")
                for name, value in profile.items()
            ]
    return rows


def _answers(system: AlignedPredictions, stated: Calibration | None) -> list[Row]:
    """Return how honest a system is, and what it spends."""
    rows = []
    honest, part = partial(Row, system.name, "", ""), "Answers and their probabilities"
    judged = [h for h in system.hallucinated if h is not None]
    if judged:
        rows.append(honest("hallucination ratio", sum(judged) / len(judged), len(judged), part=part))
    if stated is not None:
        rows += [
            honest("stated probability of the first item", stated.stated, stated.turns, part=part),
            honest("share that is right", stated.right, stated.turns, part=part),
            honest(
                "expected calibration error", stated.error, stated.turns, stated.low, stated.high, part=part
            ),
        ]
    made = [p for p in system.predictions if p is not None]
    for part, stages in (
        ("Seconds a turn", spread([p.timings for p in made])),
        ("Tokens a turn", spread([p.tokens for p in made])),
    ):
        for stage, found in stages.items():
            rows += [
                Row(system.name, stage, "", name, value, int(found["count"]), part=part)
                for name, value in found.items()
                if name != "count"
            ]
    return rows


def spread(rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return count, mean, median, 95th percentile and sum of numbers by stage."""
    result = {}
    for stage in dict.fromkeys(stage for row in rows for stage in row):
        values = np.array([row[stage] for row in rows if stage in row], dtype=np.float64)
        result[stage] = {
            "count": len(values),
            "mean": float(values.mean()),
            "median": float(np.median(values)),
            "p95": float(np.quantile(values, 0.95)),
            "sum": float(values.sum()),
        }
    return result


def write_report(evaluation: Evaluation, folder: str | Path) -> dict[str, Any]:
    """Write ``report.json``, ``report.md``, ``report.html`` and PNG pictures.

    All of it is made before any file is replaced, so that what fails leaves an earlier report as it was.

    Parameters
    ----------
    folder
        Made where missing; files of an earlier report in it are replaced.

    Returns
    -------
    What ``report.json`` holds.

    Raises
    ------
    StorageError
        If the folder cannot be written.
    """
    files, value = result_files(report_result(evaluation), _about(evaluation))
    turns = {protocol: turn_rows(evaluation, protocol, limit=HTML_TURNS) for protocol in evaluation.pairs}
    pictures = {name: data for name, data in files.items() if name.endswith(".png")}
    page = _html_report(
        result_markdown(value), pictures, {"total": len(evaluation.data.turns), "protocols": turns}
    )
    files = {"report.html": page.encode(), **files}
    write_files({Path(folder) / name: data for name, data in files.items()})
    return value


def plain_report(evaluation: Evaluation) -> dict[str, Any]:
    """Return what ``report.json`` holds, without writing anything."""
    return result_value(report_result(evaluation), _about(evaluation))


def _about(evaluation: Evaluation) -> dict[str, Any]:
    data = evaluation.data
    settings = evaluation.settings.model_dump(include={"resamples", "seed", "level", "top_k"})
    return {"data": {"hash": data.hash, "files": data.files, "turns": len(data.turns)}, "settings": settings}


def script_json(value: Any) -> str:
    """Return JSON that may stand inside a ``<script>`` element whatever texts it holds."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _html_report(markdown: str, pictures: Mapping[str, bytes], turns: Mapping[str, Any]) -> str:
    """Write a report as one page; HTML in its texts is shown, not obeyed, as names and paths are others'."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    figures = "".join(
        f'<figure><img alt="{html.escape(name)}" '
        f'src="data:image/png;base64,{base64.b64encode(data).decode()}"></figure>'
        for name, data in pictures.items()
    )
    rest = resources.files(__package__).joinpath("report_template.html").read_text(encoding="utf-8")
    # One pass, so that a text which imitates a slot is not filled in turn.
    pieces: list[str] = []
    for slot, text in (("@@BODY@@", body), ("@@FIGURES@@", figures), ("@@TURNS@@", script_json(turns))):
        before, _, rest = rest.partition(slot)
        pieces += [before, text]
    return "".join([*pieces, rest])


def catalog_retrieve(store: str, name: str, encoder: str | None) -> RetrieveBatch:
    """Open a catalog store and return its batch retrieval, for the baseline ``retriever``."""
    from reges_index.catalog.live import open_catalog_at

    catalog = open_catalog_at(store, name, encoder)

    def retrieve(queries: list[str], top_k: int) -> list[list[str]]:
        return [[item for item, _ in found] for found in catalog.retrieve_batch(queries, top_k)]

    return retrieve


def run_evaluation(config: EvaluationSettings) -> tuple[Evaluation, dict[str, Any] | None]:
    """Score the predictions and baselines, and write the report where ``config.out`` says.

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
    return evaluation, write_report(evaluation, config.out) if config.out else None
