"""What an experiment gives: rows that hold ours and the paper's value, notes, and a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from matplotlib.figure import Figure

from reges_index.errors import StorageError
from reges_index.evaluation.markdown import interval, made_with, p_value, plain, table
from reges_index.evaluation.plots import COLOURS, bar_chart, legend_below, new_figure, save
from reges_index.evaluation.protocol import ProtocolName
from reges_index.evaluation.scoring import Evaluation
from reges_index.evaluation.stats import holm
from reges_index.evaluation.summary import provenance
from reges_index.files import json_text, write_text

__all__ = [
    "ComparisonRow",
    "ExperimentResult",
    "PaperValue",
    "Row",
    "compared",
    "draw_rows",
    "rows_of",
    "write_result",
]

PaperValue: TypeAlias = Callable[[str, str], tuple[float | None, str]]
"""From a system's name and a metric to the paper's value and what it is of."""


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
    reading
        Two sentences on how to read the table.
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
    reading: str = ""
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
    parts += [result.reading] if result.reading else []
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
        "reading": result.reading,
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


# -- from scores to rows ----------------------------------------------------------------------------


def rows_of(
    evaluation: Evaluation,
    metrics: Mapping[str, str],
    setting: str,
    *,
    paper: PaperValue | None = None,
    protocols: Sequence[ProtocolName] = ("all", "new"),
) -> list[Row]:
    """Return a row for each system, protocol and metric, averaged over targets.

    Parameters
    ----------
    metrics
        Name in `metrics.METRICS` to the name in the table.
    paper
        Stands beside the protocol ``all`` only: the paper does not take repeated items out.
    """
    rows = []
    for protocol in protocols:
        for system, estimates in evaluation.estimates(protocol).items():
            for metric, shown in metrics.items():
                theirs, of = paper(system, metric) if paper and protocol == "all" else (None, "")
                e = estimates[metric]
                count = evaluation.pairs[protocol].counts.pairs
                rows.append(Row(system, setting, protocol, shown, e.value, count, e.low, e.high, theirs, of))
    return rows


def compared(
    evaluation: Evaluation,
    pairs: Sequence[tuple[str, str]],
    metrics: Mapping[str, str],
    setting: str,
    *,
    paper_gain: Callable[[str, str], float | None] | None = None,
    protocols: Sequence[ProtocolName] = ("all", "new"),
) -> list[ComparisonRow]:
    """Return the paired difference and the relative gain of the first system over the second.

    Holm's adjustment is over these pairs, for each protocol and metric: the tests that are shown, not all
    that the evaluation could make.

    Parameters
    ----------
    paper_gain
        From the second system's name and the metric to the paper's relative gain.
    """
    rows = []
    for protocol in protocols:
        estimates = evaluation.estimates(protocol)
        found = {(c.first, c.second, c.metric): (c.difference, 1) for c in evaluation.comparisons(protocol)}
        found |= {(b, a, m): (d, -1) for (a, b, m), (d, _) in list(found.items())}
        tested = [(a, b, m) for a, b in pairs for m in metrics if (a, b, m) in found]
        adjusted: dict[tuple[str, str, str], float] = {}
        for metric in metrics:
            own = [key for key in tested if key[2] == metric]
            adjusted |= zip(own, holm([found[key][0].p for key in own]), strict=True)
        for key in tested:
            first, second, metric = key
            d, sign = found[key]
            base = estimates[second][metric].value
            ends = sorted((sign * d.low, sign * d.high))
            value = sign * d.value
            gain = value / base if base else None
            theirs = paper_gain(second, metric) if paper_gain and protocol == "all" else None
            row = ComparisonRow(
                first, second, setting, protocol, metrics[metric], value, ends[0], ends[1],
                p=d.p, p_holm=adjusted[key], gain=gain, paper_gain=theirs,
            )  # fmt: skip
            rows.append(row)
    return rows


# -- the bar charts that most experiments share ----------------------------------------------------

_Group: TypeAlias = "tuple[str, str, str]"

_MOST_BESIDE = 4
"""More systems than this are drawn below one another, or their labels run into each other."""


def draw_rows(rows: Sequence[Row], title: str) -> Figure:
    """Draw the rows that have a value: one group for each metric, setting and protocol."""
    ran = {
        (row.system, (row.metric, row.setting, row.protocol)): row for row in rows if row.value is not None
    }
    groups = list(dict.fromkeys(group for _, group in ran))
    systems = list(dict.fromkeys(system for system, _ in ran))
    draw = _beside if len(systems) <= _MOST_BESIDE else _below
    figure = draw(ran, systems, groups)
    figure.suptitle(title)
    return figure


def _words(group: _Group) -> str:
    metric, setting, protocol = group
    return "\n".join(part for part in (metric, setting, f"{protocol} targets" if protocol else "") if part)


def _ends(row: Row | None) -> tuple[float, float]:
    if row is None or row.value is None:
        return (0.0, 0.0)
    return (
        row.value if row.low is None else row.low,
        row.value if row.high is None else row.high,
    )


def _beside(ran: dict[tuple[str, _Group], Row], systems: list[str], groups: list[_Group]) -> Figure:
    figure = new_figure(max(7.0, 1.5 * len(groups) + 2), 4.6)
    axes = figure.subplots()
    found = {s: [ran.get((s, group)) for group in groups] for s in systems}
    values = {s: [None if row is None else row.value for row in own] for s, own in found.items()}
    errors = {s: [_ends(row) for row in own] for s, own in found.items()}
    bar_chart(axes, [_words(group) for group in groups], values, errors=errors, labels=True)
    axes.tick_params(axis="x", labelsize=8)
    legend_below(figure, axes, min(2, len(systems)))
    return figure


def _below(ran: dict[tuple[str, _Group], Row], systems: list[str], groups: list[_Group]) -> Figure:
    figure = new_figure(3.2 + 3.4 * len(groups), 1.6 + 0.36 * len(systems))
    for axes, group in zip(
        figure.subplots(1, len(groups), sharey=True, squeeze=False)[0], groups, strict=True
    ):
        for place, system in enumerate(reversed(systems)):
            row = ran.get((system, group))
            if row is None or row.value is None:
                continue
            low, high = _ends(row)
            spread = [[max(0.0, row.value - low)], [max(0.0, high - row.value)]]
            axes.barh(place, row.value, color=COLOURS[0], height=0.7)
            axes.errorbar(row.value, place, xerr=spread, fmt="none", ecolor="#222222", capsize=2)
            axes.annotate(
                f"{row.value:.3f}", (max(high, row.value), place), (4, 0), textcoords="offset points",
                va="center", fontsize=8,
            )  # fmt: skip
        axes.set_yticks(range(len(systems)), systems[::-1])
        axes.set_title(_words(group), fontsize=9)
        axes.set_xlim(0, max(axes.get_xlim()[1] * 1.15, 1e-3))
        axes.locator_params(axis="x", nbins=5)  # more run into each other
        axes.spines[["top", "right"]].set_visible(False)
    return figure
