"""What was measured, as rows of numbers: one form for reports and experiments, in JSON and Markdown."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

from matplotlib.figure import Figure

from reges_index.errors import InputError
from reges_index.evaluation.plots import png
from reges_index.evaluation.stats import Comparison
from reges_index.files import json_text, read_json, read_text, write_files, write_text

PaperValue: TypeAlias = Callable[[str, str], tuple[float | None, str]]
"""From a system's name and a metric to the paper's value and what it is of."""

BEGIN, END = "<!-- results -->", "<!-- /results -->"
SPLIT_NOTE = (
    "The paper's values are from the test splits and from larger models (section 3.3); ours are from the "
    "conversations named below, so the two show different things side by side."
)
_MOST_COLUMNS = 10
_PACKAGES = (
    *("reges-index", "bm25s", "chromadb", "llama-index-core", "numpy", "peft", "rouge-score", "sacrebleu"),
    *("scipy", "torch", "transformers"),
)


@dataclass(frozen=True)
class Row:
    """One number.

    Attributes
    ----------
    system, setting, protocol, metric
        What was measured; ``setting`` and ``protocol`` are empty where they do not matter.
    value, low, high
        Ours, with its interval where there is one; None where the system cannot run here.
    n
        Over how many pairs, turns or texts.
    paper, paper_setting
        The paper's value for the nearest system, and what it is of.
    part
        Heading of the table that it stands in; empty for the only or first one.
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
    part: str = ""


@dataclass(frozen=True)
class Result:
    """The outcome of an evaluation or of a named experiment.

    Attributes
    ----------
    name, title, source
        Such as ``table4``, and where the paper has it.
    rows, comparisons
        The numbers.
    notes
        How it was done and what to keep in mind.
    reading
        Two sentences on how to read the table.
    left_out
        Systems that did not run, with the reason.
    short
        Metrics that a README shows, and those whose tests are printed; all where it is empty.
    extra
        More data for the JSON.
    pictures
        Name of a PNG file, without its ending, to what draws it.
    """

    name: str
    title: str
    source: str
    rows: list[Row]
    comparisons: list[Comparison] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    reading: str = ""
    left_out: dict[str, str] = field(default_factory=dict)
    short: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, Callable[[], Figure]] = field(default_factory=dict)


# -- Markdown ----------------------------------------------------------------------------------------


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; what a cell holds is made harmless (`plain`)."""

    def line(cells: Sequence[object]) -> str:
        return "| " + " | ".join(plain(cell) for cell in cells) + " |"

    return "\n".join([line(header), "|" + "---|" * len(header), *(line(row) for row in rows)])


def plain(text: object) -> str:
    """Return text on one line, without what Markdown would take for a tag or a column."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {plain(line)}" for line in lines)


def _number(row: Mapping[str, Any]) -> str:
    value = row["value"]
    if value is None:
        return ""
    if row["low"] is not None:
        return f"{value:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    return f"{value:.3f}" if 0 < abs(value) < 1 else f"{value:.4g}"


def _usual(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return by protocol over how many most rows are."""
    counts: dict[str, Counter[int]] = {}
    for row in rows:
        if row["value"] is not None:
            counts.setdefault(row["protocol"], Counter())[row["n"]] += 1
    return {protocol: own.most_common(1)[0][0] for protocol, own in counts.items()}


def _wide(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a line for each system and setting, a column for each metric and protocol."""
    rows = [row for row in rows if row["value"] is not None or row["paper"] is not None]
    usual = _usual(rows)
    columns = list(dict.fromkeys((row["protocol"], row["metric"]) for row in rows))
    lines: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    for row in rows:
        said = [_number(row)]
        if row["value"] is not None and row["n"] != usual[row["protocol"]]:
            said.append(f"(n={row['n']})")
        if row["paper"] is not None:
            said.append(f"(paper{': ' * bool(row['paper_setting'])}{row['paper_setting']} {row['paper']:g})")
        at = lines.setdefault((row["setting"], row["system"]), {})
        # Rows of the paper alone share a line's place with no other.
        column = row["protocol"], row["metric"]
        at[column] = "; ".join(filter(None, (at.get(column), " ".join(filter(None, said)))))
    settings = any(setting for setting, _ in lines)
    header = [*(["setting"] if settings else []), "system", *(f"{p} {m}".strip() for p, m in columns)]
    return table(
        header,
        (
            [*([setting] if settings else []), system, *(cells.get(column, "") for column in columns)]
            for (setting, system), cells in lines.items()
        ),
    )


def _tables(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    found: list[str] = []
    for part in dict.fromkeys(row["part"] for row in rows):
        own = [row for row in rows if row["part"] == part]
        found += [f"## {part}"] if part else []
        protocols: dict[str, None] = dict.fromkeys(row["protocol"] for row in own)
        if len({(row["protocol"], row["metric"]) for row in own}) <= _MOST_COLUMNS:
            found.append(_wide(own))
        else:
            found += [_wide([row for row in own if row["protocol"] == one]) for one in protocols]
    return found


def _tests(comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    if not comparisons:
        return []
    settings = any(c["setting"] for c in comparisons)
    claimed = any(c["paper_gain"] is not None for c in comparisons)
    rows = [
        [
            *(c["first"], c["second"], *([c["setting"]] if settings else [])),
            *(
                f"{c['protocol']} {c['metric']}".strip(),
                f"{c['value']:+.3f} [{c['low']:+.3f}, {c['high']:+.3f}]",
            ),
            "" if c["gain"] is None else f"{c['gain']:+.0%}",
            *(["" if c["paper_gain"] is None else f"{c['paper_gain']:+.0%}"] if claimed else []),
            "<0.001" if c["p_holm"] < 0.001 else f"{c['p_holm']:.3f}",
        ]
        for c in comparisons
    ]
    heading = ["first", "second", *(["setting"] if settings else []), "metric", "first minus second", "gain"]
    return [table([*heading, *(["paper's gain"] if claimed else []), "p (Holm)"], rows)]


def _shown(value: Mapping[str, Any], rows: str) -> list[Mapping[str, Any]]:
    return [row for row in value[rows] if not value["short"] or row["metric"] in value["short"]]


def result_markdown(value: Mapping[str, Any], pictures: Iterable[str] = ()) -> str:
    """Write a result as Markdown.

    Parameters
    ----------
    value
        What its JSON file holds.
    pictures
        Names of the PNG files beside it.
    """
    about = value["about"]
    made = about["provenance"]
    of_paper = any(row["paper"] is not None for row in value["rows"])
    first = [row for row in value["rows"] if row["part"] == value["rows"][0]["part"]]
    n = "; ".join(f"{count} {protocol}".strip() for protocol, count in _usual(first).items())
    parts = [f"# {value['title']}", f"{value['source']}." + (f" {SPLIT_NOTE}" if of_paper else "")]
    parts += [f"{value['reading']} n: {n}; brackets: {about['settings']['level']:.0%} intervals."]
    parts += _tables(value["rows"])
    tests = _tests(_shown(value, "comparisons"))
    parts += ["## Differences", *tests] if tests else []
    parts += [f"![{name}]({name}.png)" for name in pictures]
    if value["left_out"]:
        parts += ["## Not run", _bullets(f"{name}: {why}" for name, why in value["left_out"].items())]
    if value["notes"]:
        parts += ["## Notes", _bullets(value["notes"])]
    described = {
        key: about[key] for key in ("model", "adapters", "encoder", "prompts", "settings") if key in about
    }
    lines = [
        f"command: `{made['command']}`",
        f"time: {made['time']}; data hash `{about['data']['hash']}`",
        *(f"{name}: `{f['path']}` (SHA-256 `{f['sha256']}`)" for name, f in about["data"]["files"].items()),
        *(f"{name}: {said or 'none'}" for name, said in described.items()),
        f"machine: {made['machine']}",
        "versions: " + ", ".join(f"{package} {version}" for package, version in made["versions"].items()),
    ]
    return "\n\n".join([*parts, "## How this was made", _bullets(lines)]) + "\n"


def short_markdown(name: str, value: Mapping[str, Any]) -> str:
    """Write a result for a README: its first table and the tests of it, with the data set's name above."""
    rows = _shown(value, "rows")
    first = [row for row in rows if row["part"] == rows[0]["part"]]
    tests = _shown(value, "comparisons")
    # Where the paper has gains, what it measures them in; all tests are in the result's own files.
    claimed = {(c["protocol"], c["metric"]) for c in tests if c["paper_gain"] is not None}
    tests = [c for c in tests if not claimed or (c["protocol"], c["metric"]) in claimed]
    about = value["about"]
    n = ", ".join(f"{count} {protocol}".strip() for protocol, count in _usual(first).items())
    made = about["provenance"]
    level = f"{about['settings']['level']:.0%}"
    return "\n\n".join(
        [
            f"**{name}, {value['title']}** (n: {n}; {level} intervals over dialogues)",
            *([value["reading"]] if value["reading"] else []),
            _wide(first),
            *_tests(tests),
            f"Made on {made['time'][:10]} by `{made['command']}` (data `{about['data']['hash'][:12]}`).",
        ]
    )


# -- files -------------------------------------------------------------------------------------------


def provenance() -> dict[str, Any]:
    """Describe this run: command, time (UTC), versions, machine; neither the host's nor the user's name."""
    program = Path(sys.argv[0]).name.replace("__main__.py", "reges")  # as `python -m reges_index.cli` has it
    versions = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "command": shlex.join([program, *sys.argv[1:]]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions,
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
    }


def result_value(result: Result, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result as JSON data.

    Parameters
    ----------
    about
        Data (``hash``, ``files``), settings, and model, adapters, encoder and prompts where there are any.
    """
    return {
        "experiment": result.name,
        **{key: getattr(result, key) for key in ("title", "source", "reading", "notes", "left_out")},
        "short": list(result.short),
        "rows": [asdict(row) for row in result.rows],
        "comparisons": [asdict(c) for c in result.comparisons],
        **result.extra,
        "about": {**about, "provenance": provenance()},
    }


def result_files(result: Result, about: Mapping[str, Any]) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Make the files of a result, ``NAME.json`` the last, and return `result_value` beside them."""
    value = result_value(result, about)
    text = json_text(value)  # before anything is drawn: it refuses NaN
    files = {f"{name}.png": png(draw()) for name, draw in result.pictures.items()}
    files[f"{result.name}.md"] = result_markdown(value, result.pictures).encode()
    files[f"{result.name}.json"] = text.encode()
    return files, value


def write_result(result: Result, folder: str | Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Write the files of a result, all or none, and return what its JSON file holds; see `result_files`.

    Raises
    ------
    StorageError
        If the folder cannot be written.
    """
    files, value = result_files(result, about)
    write_files({Path(folder) / name: data for name, data in files.items()})
    return value


def write_results(path: str | Path, results: Sequence[tuple[str, str | Path]]) -> str:
    """Put tables between the marks ``<!-- results -->`` and ``<!-- /results -->`` of a Markdown file.

    Parameters
    ----------
    results
        Name of the data set, and a report's folder or an experiment's JSON file.

    Returns
    -------
    What was written between the marks.

    Raises
    ------
    InputError
        If the file has not exactly these two marks in this order, or a report or experiment cannot be read.
    """
    text = read_text(path)
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise InputError(
            f"{path}: no place for the results", hint=f"put {BEGIN} and {END} on lines of their own"
        )
    parts = []
    for name, place in results:
        file = Path(place) / "report.json" if Path(place).is_dir() else Path(place)
        value = read_json(file)
        if not {"rows", "title", "about", "short"} <= value.keys():
            raise InputError(
                f"{file}: neither report nor experiment", hint="give what `reges evaluate` wrote"
            )
        parts.append(short_markdown(name, value))
    made = "\n\n".join(parts)
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    write_text(path, f"{before}{BEGIN}\n{made}\n{END}{after}")
    return made
