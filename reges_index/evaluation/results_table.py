"""Tables of results in a Markdown file: written from finished reports and experiments, never by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reges_index.errors import InputError
from reges_index.evaluation.markdown import interval, p_value, table
from reges_index.files import read_json, write_text

__all__ = ["BEGIN", "END", "experiment_markdown", "results_markdown", "write_results"]

BEGIN, END = "<!-- results -->", "<!-- /results -->"

_METRICS = {"rec_success_rate": "Rec Success Rate", "recall@10": "Recall@10", "recall@50": "Recall@50"}


def results_markdown(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Write a table for each data set and protocol.

    Parameters
    ----------
    reports
        Name of the data set to what its ``report.json`` holds.
    """
    parts: list[str] = []
    for name, report in reports.items():
        level = f"{report['settings']['level']:.0%}"
        for protocol, part in report["protocols"].items():
            if not part["systems"]:
                continue
            counts = part["counts"]
            rows = [
                [
                    system if report["systems"][system]["baseline"] else f"**{system}**",
                    *(interval(entry["per_target"][metric]) for metric in _METRICS),
                ]
                for system, entry in part["systems"].items()
            ]
            parts += [
                f"**{name}, {protocol} targets** ({counts['pairs']} targets, "
                f"{counts['turns_counted']} turns, {counts['dialogues_counted']} dialogues; "
                f"{level} intervals over dialogues)",
                table(["system", *_METRICS.values()], rows),
            ]
    made = [
        f"{name}:{_on(report['provenance'])} `{report['provenance']['command']}` "
        f"(data `{report['data']['hash'][:12]}`)"
        for name, report in reports.items()
    ]
    return "\n\n".join([*parts, "Made by " + "; ".join(made) + "."])


def experiment_markdown(name: str, result: Mapping[str, Any]) -> str:
    """Write an experiment as one table: a line for each system, a column for each metric and protocol.

    Above it stands how to read it, below it the paired tests with Holm's adjustment.

    Parameters
    ----------
    name
        Of the data set.
    result
        What the experiment's JSON file holds; see `experiments.write_result`.
    """
    rows = [row for row in result["rows"] if row["value"] is not None]
    columns = list(dict.fromkeys((row["protocol"], row["metric"]) for row in rows))
    lines: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    counts: dict[str, int] = {}
    for row in rows:
        bounds = row["low"] is not None and row["high"] is not None
        shown = interval(row) if bounds else f"{row['value']:.3f}"
        lines.setdefault((row["setting"], row["system"]), {})[row["protocol"], row["metric"]] = shown
        counts[row["protocol"]] = max(row["n"], counts.get(row["protocol"], 0))
    settings = len({setting for setting, _ in lines}) > 1
    header = [*(["setting"] if settings else []), "system"]
    header += [f"{protocol} {metric}".strip() for protocol, metric in columns]
    body = [
        [*([setting] if settings else []), system, *(cells.get(column, "") for column in columns)]
        for (setting, system), cells in lines.items()
    ]
    told = result.get("comparisons", ())
    claimed = {(c["protocol"], c["metric"]) for c in told if c["paper_gain"] is not None}
    # Where the paper has gains, what it measures them in; all tests are in the experiment's own files.
    tests = [
        [
            *(c["first"], c["second"], *([c["setting"]] if settings else [])),
            *(f"{c['protocol']} {c['metric']}".strip(), "" if c["gain"] is None else f"{c['gain']:+.0%}"),
            *(["" if c["paper_gain"] is None else f"{c['paper_gain']:+.0%}"] if claimed else []),
            p_value(c["p_holm"]),
        ]
        for c in told
        if not claimed or (c["protocol"], c["metric"]) in claimed
    ]
    heading = ["first", "second", *(["setting"] if settings else []), "metric", "gain"]
    heading += [*(["paper's gain"] if claimed else []), "p (Holm)"]
    of = ", ".join(f"{count} {protocol}".strip() for protocol, count in counts.items())
    about = result["about"]
    level = about["settings"]["level"]
    return "\n\n".join(
        [
            f"**{name}, {result['title']}** (n: {of}; {level:.0%} intervals over dialogues)",
            *([result["reading"]] if result.get("reading") else []),
            table(header, body),
            *([table(heading, tests)] if tests else []),
            f"Made{_on(about['provenance'])} by `{about['provenance']['command']}` "
            f"(data `{about['data']['hash'][:12]}`).",
        ]
    )


def _on(made: Mapping[str, Any]) -> str:
    return f" on {made['time'][:10]}" if made.get("time") else ""


def write_results(
    path: str | Path,
    folders: Mapping[str, str | Path],
    experiments: Sequence[tuple[str, str | Path]] = (),
) -> str:
    """Put the tables between the marks ``<!-- results -->`` and ``<!-- /results -->`` of a Markdown file.

    Parameters
    ----------
    folders
        Name of the data set to the folder of its report.
    experiments
        Name of the data set and an experiment's JSON file, as often as wanted; these tables come last.

    Returns
    -------
    What was written between the marks.

    Raises
    ------
    InputError
        If the file has not exactly these two marks in this order, or a report or experiment cannot be read.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})", hint="check the path") from error
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise InputError(
            f"{path}: no place for the results", hint=f"put {BEGIN} and {END} on lines of their own"
        )
    reports = {name: read_json(Path(folder) / "report.json") for name, folder in folders.items()}
    found = [(name, Path(file), read_json(Path(file))) for name, file in experiments]
    for _, file, result in found:
        if not {"rows", "title", "about"} <= result.keys():
            raise InputError(f"{file}: no experiment", hint="give one of `reges evaluate --experiment`")
    parts = [results_markdown(reports)] if reports else []
    made = "\n\n".join([*parts, *(experiment_markdown(name, result) for name, _, result in found)])
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    write_text(path, f"{before}{BEGIN}\n{made}\n{END}{after}")
    return made
