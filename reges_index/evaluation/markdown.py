"""A report as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["interval", "made_with", "markdown_report", "p_value", "plain", "table"]

_MAIN = (
    "rec_success_rate",
    "recall@1",
    "recall@5",
    "recall@10",
    "recall@20",
    "recall@50",
    "mrr@50",
    "ndcg@50",
)
_COUNT_WORDS = {
    "unknown_turns": "predictions for turns that are not in the data (ignored)",
    "missing_turns": "turns without a prediction (scored as misses)",
    "empty_rankings": "empty rankings",
    "doubles_dropped": "items listed twice in a ranking (the later one dropped)",
    "outside_catalog": "entries that are no catalog item (misses, place kept)",
    "ambiguous_titles": "titles that fit several items (the catalog's first taken)",
}
_PROTOCOL_WORDS = {
    "all": "every target counts, mentioned items stay in the ranking",
    "new": "only targets not mentioned before; mentioned items leave the ranking",
}


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; what a cell holds is made harmless (`plain`)."""

    def line(cells: Sequence[object]) -> str:
        return "| " + " | ".join(plain(cell) for cell in cells) + " |"

    return "\n".join([line(header), "|" + "---|" * len(header), *(line(row) for row in rows)])


def plain(text: object) -> str:
    """Return text on one line, without what Markdown would take for a tag or a column."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def interval(entry: dict[str, float], digits: int = 3) -> str:
    """Return ``value [low, high]``."""
    return f"{entry['value']:.{digits}f} [{entry['low']:.{digits}f}, {entry['high']:.{digits}f}]"


def p_value(p: float) -> str:
    """Return a p-value with three digits, or ``<0.001``."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def markdown_report(summary: dict[str, Any], pictures: dict[str, str] | None = None) -> str:
    """Write a report.

    Parameters
    ----------
    summary
        From `summary.summarize`.
    pictures
        Title to file name, relative to the report.
    """
    parts = ["# Evaluation", _intro(summary)]
    for protocol, part in summary["protocols"].items():
        parts += _protocol(protocol, part, summary)
    parts += ["## Systems and their inputs", *_systems(summary)]
    if pictures:
        parts += ["## Pictures", *(f"![{title}]({name})" for title, name in pictures.items())]
    parts += ["## How this was made", _provenance(summary)]
    return "\n\n".join(parts) + "\n"


def _intro(summary: dict[str, Any]) -> str:
    data, settings = summary["data"], summary["settings"]
    lines = [
        f"{data['turns']} turns, {data['items']} items, {data['train_turns']} train turns. "
        f"Metrics are cut at rank {settings['depth']}. Brackets: {settings['level']:.0%} percentile "
        f"intervals, {settings['resamples']} bootstrap samples of whole dialogues, seed {settings['seed']}."
    ]
    for name, reason in summary["baselines_left_out"].items():
        lines.append(f"Baseline left out: {name} ({reason}).")
    return "\n".join(lines)


def _protocol(protocol: str, part: dict[str, Any], summary: dict[str, Any]) -> list[str]:
    counts = part["counts"]
    parts = [
        f"## Protocol `{protocol}`: {_PROTOCOL_WORDS[protocol]}",
        f"{counts['pairs']} (turn, target) pairs from {counts['turns_counted']} of {counts['turns']} turns "
        f"in {counts['dialogues_counted']} dialogues."
        + "".join(
            f" {name.replace('_', ' ').capitalize()}: {counts[name]}."
            for name in counts
            if name not in ("turns", "pairs", "turns_counted", "dialogues_counted") and counts[name]
        ),
    ]
    if not part["systems"]:
        return [*parts, "No pair is left, so there is nothing to score."]
    for averaging, words in (
        ("per_target", "Per target (every pair counts the same, as in the literature)"),
        ("per_dialogue", "Per dialogue (every dialogue counts the same)"),
    ):
        rows = [
            [_name(name, summary), *(interval(entry[averaging][m]) for m in _MAIN)]
            for name, entry in part["systems"].items()
        ]
        parts += [f"### {words}", table(["system", *_MAIN], rows)]
    parts += ["### Where targets are lost", _fates(part, summary)]
    parts += ["### What is recommended", _recommendations(part, summary)]
    if part["comparisons"]:
        parts += ["### Paired tests (first minus second)", _comparisons(part)]
    parts += ["### By length of the dialogue and by mentions", _groups(part, summary)]
    return parts


def _name(name: str, summary: dict[str, Any]) -> str:
    return f"*{name}*" if summary["systems"][name]["baseline"] else f"**{name}**"


def _fates(part: dict[str, Any], summary: dict[str, Any]) -> str:
    total = part["counts"]["pairs"]
    fates = ("not_in_catalog", "not_in_top_k", "not_picked", "picked")
    rows = [
        [_name(name, summary), *(f"{entry['fates'][f]} ({entry['fates'][f] / total:.1%})" for f in fates)]
        for name, entry in part["systems"].items()
    ]
    top_k = summary["settings"]["top_k"]
    return table(
        ["system", "not in the catalog", f"not in the top {top_k}", "in it, not picked", "picked"], rows
    )


def _recommendations(part: dict[str, Any], summary: dict[str, Any]) -> str:
    rows = []
    for name, entry in part["systems"].items():
        r = entry["recommendations"]
        rows.append(
            [
                _name(name, summary),
                f"{r['distinct_at_1']} ({r['coverage_at_1']:.1%})",
                f"{r['distinct_at_10']} ({r['coverage_at_10']:.1%})",
                "-" if r["mean_popularity"] is None else f"{r['mean_popularity']:.1f}",
                "-" if r["share_unseen"] is None else f"{r['share_unseen']:.1%}",
                r["turns_without_ranking"],
                r["turns_without_recommendation"],
            ]
        )
    header = ["system", "items recommended (coverage)", "items in top 10 (coverage)"]
    header += ["mean train count of the recommended", "never a train target"]
    header += ["turns without ranking", "without recommendation"]
    return table(header, rows)


def _comparisons(part: dict[str, Any]) -> str:
    rows = [
        [c["first"], c["second"], c["metric"], interval(c, 4), p_value(c["p"]), p_value(c["p_holm"])]
        for c in part["comparisons"]
        if c["metric"] in ("rec_success_rate", "recall@5", "recall@50")
    ]
    note = (
        "p: sign-flip permutation test over dialogues; p (Holm): allowing for all pairs of systems. "
        "The other metrics are in report.json."
    )
    header = ["first", "second", "metric", "difference", "p", "p (Holm)"]
    return table(header, rows) + "\n\n" + note


def _groups(part: dict[str, Any], summary: dict[str, Any]) -> str:
    tables = []
    for kind in ("messages", "mentions"):
        systems = part["systems"]
        first = next(iter(systems.values()))["groups"][kind]
        rows = [
            [
                _name(name, summary),
                *(f"{g['rec_success_rate']:.3f} / {g['recall@50']:.3f}" for g in e["groups"][kind]),
            ]
            for name, e in systems.items()
        ]
        header = [
            f"Rec Success Rate / Recall@50 by {kind}",
            *(f"{g['group']} (n={g['pairs']})" for g in first),
        ]
        tables.append(table(header, rows))
    return "\n\n".join(tables)


def _systems(summary: dict[str, Any]) -> list[str]:
    parts = []
    for name, system in summary["systems"].items():
        if system["baseline"]:
            continue
        lines = [f"### {plain(name)}"]
        if system["source"]:
            lines.append(f"`{system['source']['path']}` (SHA-256 `{system['source']['sha256']}`)")
        said = _settings(system["source"].get("settings", {}))
        if said:
            lines.append(table(["made with", ""], said))
        wrong = [f"- {_COUNT_WORDS[key]}: {count}" for key, count in system["counts"].items() if count]
        lines.append("\n".join(wrong) if wrong else "Nothing was wrong with the predictions.")
        matched = {kind: count for kind, count in system["matching"].items() if count}
        lines.append(
            "Entries matched: " + ", ".join(f"{count} {kind}" for kind, count in matched.items()) + "."
        )
        hallucination = system["hallucination"]
        if hallucination["ratio"] is not None:
            lines.append(
                f"Hallucination ratio: {hallucination['ratio']:.4f} "
                f"({hallucination['no_catalog_item']} of {hallucination['answers']} answers "
                "are no catalog item)."
            )
        calibration = system["calibration"]
        if calibration is not None:
            lines.append(
                f"Calibration over {calibration['turns']} turns: the first item is stated to be right with "
                f"{calibration['stated']:.3f} on average and is right in {calibration['right']:.3f}; "
                f"expected calibration error {calibration['error']:.3f} "
                f"[{calibration['low']:.3f}, {calibration['high']:.3f}]."
            )
        for what, unit in (("timings", "s"), ("tokens", "tokens")):
            if system[what]:
                rows = [
                    [stage, *(f"{v[k]:.4g}" for k in ("count", "mean", "median", "p95", "sum"))]
                    for stage, v in system[what].items()
                ]
                lines.append(table([f"stage ({unit})", "turns", "mean", "median", "p95", "sum"], rows))
        parts.append("\n\n".join(lines))
    return parts or ["Baselines only."]


def _settings(settings: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return what `reges predict` says of a run, with the hashes of its inputs, without unset options."""
    rows: list[tuple[str, Any]] = []
    for name, value in settings.items():
        rows += (
            [(f"{name}.{key}", own) for key, own in value.items()]
            if isinstance(value, dict)
            else [(name, value)]
        )
    return [(name, value) for name, value in rows if value is not None]


def _provenance(summary: dict[str, Any]) -> str:
    made = summary["provenance"]
    lines = [
        f"- command: `{made['command']}`",
        f"- time: {made['time']}",
        f"- data hash: `{summary['data']['hash']}`",
        *(
            f"- {name}: `{f['path']}` (SHA-256 `{f['sha256']}`)"
            for name, f in summary["data"]["files"].items()
        ),
        *made_with(made),
    ]
    return "\n".join(lines)


def made_with(made: dict[str, Any]) -> list[str]:
    """Return the lines of a list that name machine and versions.

    Parameters
    ----------
    made
        From `provenance.provenance`.
    """
    versions = {"Python": made["python"], **made["versions"]}
    return [
        "- machine: {system}, {processor}, {cores} cores".format(**made["machine"]),
        "- versions: " + ", ".join(f"{package} {version}" for package, version in versions.items()),
    ]
