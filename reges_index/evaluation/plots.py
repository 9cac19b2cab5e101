"""Pictures of a report (matplotlib, no display needed); made to be read at the width of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["COLOURS", "bar_chart", "legend_below", "new_figure", "report_pictures", "save"]

# Okabe and Ito's colours, told apart by colour-blind readers too; baselines get greys.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
_GREYS = ("#555555", "#8a8a8a", "#b5b5b5", "#d6d6d6")
_FATE_COLOURS = {
    "picked": "#009E73",
    "not_picked": "#E69F00",
    "not_in_top_k": "#D55E00",
    "not_in_catalog": "#000000",
}
_FATE_NAMES = {
    "picked": "picked",
    "not_picked": "in the top k, not picked",
    "not_in_top_k": "not in the top k",
    "not_in_catalog": "not in the catalog",
}
_NAME_WIDTH = 44


def new_figure(width: float = 8.0, height: float = 4.5) -> Figure:
    """Return an empty figure, sizes in inches, that no window and no global state knows of."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def legend_below(figure: Figure, axes: Axes, columns: int) -> None:
    """Put the legend of one of a figure's axes, which stands for all of them, below the figure."""
    handles, texts = axes.get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=columns, frameon=False)


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG at 144 dots per inch; the same figure gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=144, metadata={"Software": None})
    return path


def _short(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else f"{name[: _NAME_WIDTH - 1]}…"


def _finish(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)


def colours_of(names: Sequence[str], baselines: Sequence[str]) -> dict[str, str]:
    """Return a colour for each system, greys for baselines."""
    own = [name for name in names if name not in baselines]
    plain = [name for name in names if name in baselines]
    return {name: COLOURS[n % len(COLOURS)] for n, name in enumerate(own)} | {
        name: _GREYS[n % len(_GREYS)] for n, name in enumerate(plain)
    }


def bar_chart(
    axes: Axes,
    groups: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    *,
    errors: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    colours: Mapping[str, str] | None = None,
    labels: bool = False,
) -> None:
    """Draw grouped bars.

    Parameters
    ----------
    groups
        G names below the axis.
    series
        Name in the legend to G values; None leaves a gap.
    errors
        For each value the two ends of its interval.
    labels
        Whether each bar carries its value.
    """
    width = 0.82 / max(len(series), 1)
    for number, (name, values) in enumerate(series.items()):
        shown = [(place, value) for place, value in enumerate(values) if value is not None]
        places = [place + (number - (len(series) - 1) / 2) * width for place, _ in shown]
        heights = [value for _, value in shown]
        axes.bar(
            places,
            heights,
            width * 0.94,
            label=_short(name),
            color=(colours or {}).get(name, COLOURS[number % len(COLOURS)]),
        )
        if errors and name in errors:
            ends = [errors[name][place] for place, _ in shown]
            spread = [
                [max(0.0, v - low) for v, (low, _) in zip(heights, ends, strict=True)],
                [max(0.0, high - v) for v, (_, high) in zip(heights, ends, strict=True)],
            ]
            axes.errorbar(places, heights, spread, fmt="none", ecolor="#222222", elinewidth=1, capsize=2)
        if labels:
            tops = [errors[name][place][1] if errors and name in errors else 0.0 for place, _ in shown]
            for at, height, top in zip(places, heights, tops, strict=True):
                axes.annotate(
                    f"{height:.3f}", (at, max(height, top)), (0, 3), textcoords="offset points",
                    ha="center", fontsize=7,
                )  # fmt: skip
    axes.set_xticks(range(len(groups)), groups)
    _finish(axes)
    # Rates start at 0; when all are 0 the axis must not go below it.
    axes.set_ylim(0, max(axes.get_ylim()[1], 1e-3))


def _recall(summary: dict[str, Any], path: Path) -> Path:
    cuts = ("recall@1", "recall@5", "recall@10", "recall@20", "recall@50")
    shown = {name: p for name, p in summary["protocols"].items() if p["systems"]}
    names = list(summary["systems"])
    colours = colours_of(names, [n for n in names if summary["systems"][n]["baseline"]])
    figure = new_figure(9.5, 3.6 * len(shown))
    for axes, (protocol, part) in zip(
        figure.subplots(len(shown), 1, squeeze=False)[:, 0], shown.items(), strict=True
    ):
        means = {n: [part["systems"][n]["per_target"][c]["value"] for c in cuts] for n in names}
        ends = {
            n: [
                (part["systems"][n]["per_target"][c]["low"], part["systems"][n]["per_target"][c]["high"])
                for c in cuts
            ]
            for n in names
        }
        bar_chart(axes, cuts, means, errors=ends, colours=colours)
        level = round(100 * summary["settings"]["level"])
        axes.set_title(f"Recall, {protocol} targets ({part['counts']['pairs']} pairs, {level} % intervals)")
        axes.set_ylim(0, None)
        axes.set_ylabel("Recall")
    legend_below(figure, axes, min(4, len(names)))
    return save(figure, path)


def _fates(summary: dict[str, Any], path: Path) -> Path:
    shown = {name: p for name, p in summary["protocols"].items() if p["systems"]}
    names = list(summary["systems"])[::-1]
    figure = new_figure(9.5, 1.3 + len(shown) * (0.9 + 0.34 * len(names)))
    for axes, (protocol, part) in zip(
        figure.subplots(len(shown), 1, squeeze=False)[:, 0], shown.items(), strict=True
    ):
        left = [0.0] * len(names)
        for fate, colour in _FATE_COLOURS.items():
            share = [part["systems"][n]["fates"][fate] / part["counts"]["pairs"] for n in names]
            axes.barh(range(len(names)), share, left=left, color=colour, label=_FATE_NAMES[fate])
            left = [a + b for a, b in zip(left, share, strict=True)]
        axes.set_yticks(range(len(names)), [_short(name) for name in names])
        axes.set_xlim(0, 1)
        axes.set_title(f"What became of the targets, {protocol} (k = {summary['settings']['top_k']})")
        axes.spines[["top", "right"]].set_visible(False)
    legend_below(figure, axes, 4)
    return save(figure, path)


def _groups(summary: dict[str, Any], path: Path) -> Path:
    shown = {name: p for name, p in summary["protocols"].items() if p["systems"]}
    names = list(summary["systems"])
    colours = colours_of(names, [n for n in names if summary["systems"][n]["baseline"]])
    figure = new_figure(9.5, 3.4 * len(shown))
    grid = figure.subplots(len(shown), 2, squeeze=False)
    for row, (protocol, part) in zip(grid, shown.items(), strict=True):
        for axes, kind in zip(row, ("messages", "mentions"), strict=True):
            first = part["systems"][names[0]]["groups"][kind]
            groups = [f"{g['group']}\nn={g['pairs']}" for g in first]
            means = {n: [g["rec_success_rate"] for g in part["systems"][n]["groups"][kind]] for n in names}
            bar_chart(axes, groups, means, colours=colours)
            axes.set_title(f"Rec Success Rate by {kind}, {protocol}", fontsize=10)
    legend_below(figure, grid[0][0], min(4, len(names)))
    return save(figure, path)


def _reliability(summary: dict[str, Any], path: Path) -> Path | None:
    stated = {name: system["calibration"] for name, system in summary["systems"].items()}
    shown = {name: found for name, found in stated.items() if found is not None}
    if not shown:
        return None
    figure = new_figure(6.0, 5.4)
    axes = figure.subplots()
    top = max(max(b["stated"], b["right"]) for found in shown.values() for b in found["bins"])
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--", label="as stated")
    for (name, found), colour in zip(shown.items(), COLOURS * len(shown), strict=False):
        said, right = ([b[key] for b in found["bins"]] for key in ("stated", "right"))
        label = f"{_short(name)} (ECE {found['error']:.3f}, {found['turns']} turns)"
        axes.plot(said, right, marker="o", markersize=4, color=colour, label=label)
    axes.set_xlim(0, min(1, 1.1 * top + 0.01))
    axes.set_ylim(0, min(1, 1.1 * top + 0.01))
    axes.set_xlabel("stated probability of the first item (bins of equal size)")
    axes.set_ylabel("share that was right")
    axes.set_title("Reliability")
    axes.spines[["top", "right"]].set_visible(False)
    legend_below(figure, axes, 1)
    return save(figure, path)


def report_pictures(summary: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Draw a report's pictures.

    Parameters
    ----------
    summary
        From `summary.summarize`.

    Returns
    -------
    Title of each picture to its PNG. Reliability is drawn where a system states probabilities.
    """
    pictures: dict[str, Path | None] = {
        "Recall": _recall(summary, folder / "recall.png"),
        "Where targets are lost": _fates(summary, folder / "fates.png"),
        "By length and mentions": _groups(summary, folder / "groups.png"),
        "Reliability": _reliability(summary, folder / "reliability.png"),
    }
    return {title: picture for title, picture in pictures.items() if picture is not None}
