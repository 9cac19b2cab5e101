"""The bar charts that most experiments share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from matplotlib.figure import Figure

from reges_index.evaluation.experiments.result import Row
from reges_index.evaluation.plots import COLOURS, bar_chart, legend_below, new_figure

__all__ = ["draw_rows"]

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
