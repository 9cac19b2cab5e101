"""The bar chart that most experiments share."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from reges_index.evaluation.experiments.result import Row
from reges_index.evaluation.plots import bar_chart, new_figure

__all__ = ["draw_rows"]


def draw_rows(rows: Sequence[Row], title: str) -> Figure:
    """Draw horizontal-axis groups of (metric, setting, protocol) with one bar for each system."""
    ran = [row for row in rows if row.value is not None]
    groups = list(dict.fromkeys((row.metric, row.setting, row.protocol) for row in ran))
    systems = list(dict.fromkeys(row.system for row in ran))
    by_key = {(row.system, row.metric, row.setting, row.protocol): row for row in ran}
    series = {s: [by_key[(s, *g)].value if (s, *g) in by_key else None for g in groups] for s in systems}
    errors = {
        s: [_ends(by_key.get((s, *g))) for g in groups]
        for s in systems
        if any((s, *g) in by_key and by_key[(s, *g)].low is not None for g in groups)
    }
    figure = new_figure(max(7.0, 1.9 * len(groups) + 2), 4.6)
    axes = figure.subplots()
    bar_chart(
        axes, ["\n".join(part for part in g if part) for g in groups], series, errors=errors, labels=True
    )
    axes.tick_params(axis="x", labelsize=8)
    axes.set_title(title)
    handles, texts = axes.get_legend_handles_labels()
    figure.legend(
        handles, texts, loc="outside lower center", ncols=min(3, len(systems)), frameon=False, fontsize=8
    )
    return figure


def _ends(row: Row | None) -> tuple[float, float]:
    if row is None or row.low is None or row.high is None:
        return (0.0, 0.0)
    return row.low, row.high
