"""Pictures of results (matplotlib, no display needed); made to be read at the width of a page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from reges_index.evaluation.result import Row

# Okabe and Ito's colours, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
_BESIDE = 5
_NAME_WIDTH = 44


def new_figure(width: float = 8.0, height: float = 4.5) -> Figure:
    """Return an empty figure, sizes in inches, that no window and no global state knows of."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """Return a PNG at 144 dots per inch; the same figure gives the same bytes."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=144, metadata={"Software": None})
    return stream.getvalue()


def draw_rows(rows: Sequence[Row], title: str) -> Figure:
    """Draw rows with a value: a panel for each metric, setting and protocol, a bar for each system."""
    ran = {(r.system, (r.protocol, r.setting, r.metric)): r for r in rows if r.value is not None}
    panels = list(dict.fromkeys(panel for _, panel in ran))
    systems = list(dict.fromkeys(system for system, _ in ran))[::-1]
    across = min(_BESIDE, len(panels))
    down = -(-len(panels) // across)
    figure = new_figure(3.2 + 2.4 * across, 0.4 + down * (0.8 + 0.3 * len(systems)))
    grid = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        for place, system in enumerate(systems):
            row = ran.get((system, panel))
            if row is None or row.value is None:
                continue
            low, high = (row.value if end is None else end for end in (row.low, row.high))
            spread = [[max(0.0, row.value - low)], [max(0.0, high - row.value)]]
            axes.barh(place, row.value, color=COLOURS[0], height=0.7)
            if row.low is not None:
                axes.errorbar(row.value, place, xerr=spread, fmt="none", ecolor="#222222", capsize=2)
            axes.annotate(
                f"{row.value:.3f}", (max(high, row.value), place), (4, 0), textcoords="offset points",
                va="center", fontsize=8,
            )  # fmt: skip
        axes.set_yticks(range(len(systems)), [_short(name) for name in systems])
        protocol, setting, metric = panel
        words = (metric, setting, f"{protocol} targets" if protocol else "")
        axes.set_title("\n".join(filter(None, words)), fontsize=9)
        axes.set_xlim(0, max(axes.get_xlim()[1] * 1.25, 1e-3))
        axes.locator_params(axis="x", nbins=4)  # more run into each other
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    figure.suptitle(title)
    return figure


def draw_reliability(stated: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw what each system states of its first item against how often it is right.

    Parameters
    ----------
    stated
        System to its `calibration.Calibration` as plain data.
    """
    figure = new_figure(6.0, 5.4)
    axes = figure.subplots()
    top = max(max(b["stated"], b["right"]) for found in stated.values() for b in found["bins"])
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--", label="as stated")
    for (name, found), colour in zip(stated.items(), COLOURS * len(stated), strict=False):
        said, right = ([b[key] for b in found["bins"]] for key in ("stated", "right"))
        label = f"{_short(name)} (ECE {found['error']:.3f}, {found['turns']} turns)"
        axes.plot(said, right, marker="o", markersize=4, color=colour, label=label)
    axes.set_xlim(0, min(1, 1.1 * top + 0.01))
    axes.set_ylim(0, min(1, 1.1 * top + 0.01))
    axes.set_xlabel("stated probability of the first item (bins of equal size)")
    axes.set_ylabel("share that was right")
    axes.set_title("Reliability")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", frameon=False)
    return figure


def _short(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else f"{name[: _NAME_WIDTH - 1]}…"
