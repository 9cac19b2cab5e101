"""Two finished reports against each other; refused when they are about different data."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reges_index.errors import InputError
from reges_index.evaluation.baselines import BASELINES
from reges_index.evaluation.settings import EvaluationSettings
from reges_index.evaluation.stats import ClusterBootstrap, holm
from reges_index.files import read_json

__all__ = ["compare_reports"]


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "scores.json" if folder.is_dir() else folder.with_name("scores.json")
    table = read_json(path)
    for key in ("schema", "data_hash", "metrics", "protocols"):
        if key not in table:
            raise InputError(
                f"{path}: no {key!r} in it", hint="give a folder that `reges evaluate --out` wrote"
            )
    return table


def compare_reports(
    first: str | Path, second: str | Path, *, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> dict[str, Any]:
    """Test every system of one report against every system of another, pair by pair.

    Baselines are compared with the other report's systems, not with its baselines. Systems of one name in
    both reports are told apart by their reports' folders: ``NAME (FOLDER)``.

    Parameters
    ----------
    first, second
        Folders written by ``reges evaluate --out``, or the ``report.json`` in them.
    resamples, seed, level
        As in `EvaluationSettings`.

    Returns
    -------
    By protocol a list of ``{"first", "second", "metric", "value", "low", "high", "p", "p_holm"}``, where
    value is first minus second and ``p_holm`` allows for all pairs of systems that are tested.

    Raises
    ------
    InputError
        If they were made on different data (by content, not by file name) or by another version's metrics.
    ConfigError
        As `EvaluationSettings` says.
    """
    settings = EvaluationSettings.parse({"resamples": resamples, "seed": seed, "level": level})
    tables = [_read(Path(first)), _read(Path(second))]
    for what, key in (("data", "data_hash"), ("metrics", "metrics"), ("version", "schema")):
        if tables[0][key] != tables[1][key]:
            raise InputError(
                f"{first} and {second} cannot be compared: {what} differ "
                f"({str(tables[0][key])[:16]} and {str(tables[1][key])[:16]})",
                hint="evaluate both systems on the same conversations and catalog, with the same version",
            )
    result: dict[str, Any] = {}
    for protocol, ours in tables[0]["protocols"].items():
        theirs = tables[1]["protocols"][protocol]
        result[protocol] = []
        if not ours["dialogue"]:
            continue
        bootstrap = ClusterBootstrap(
            np.asarray(ours["dialogue"], dtype=np.int64),
            resamples=settings.resamples, seed=settings.seed, level=settings.level,
        )  # fmt: skip
        clashing = (set(ours["systems"]) & set(theirs["systems"])) - set(BASELINES)
        labels = _labels(clashing, (Path(first), Path(second)))
        found = [
            (labels[0].get(a, a), labels[1].get(b, b), bootstrap.compare(one, other))
            for a, one in _values(ours).items()
            for b, other in _values(theirs).items()
            # No system may have a baseline's name (`evaluate_systems`), so a name says enough.
            if not (a in BASELINES and b in BASELINES)
        ]
        for column, metric in enumerate(tables[0]["metrics"]):
            adjusted = holm([differences[column].p for _, _, differences in found])
            result[protocol] += [
                {"first": a, "second": b, "metric": metric, **asdict(differences[column]), "p_holm": p}
                for (a, b, differences), p in zip(found, adjusted, strict=True)
            ]
    return result


def _values(part: dict[str, Any]) -> dict[str, NDArray[np.float64]]:
    return {name: np.asarray(own["values"], dtype=np.float64) for name, own in part["systems"].items()}


def _labels(names: Collection[str], reports: Sequence[Path]) -> list[dict[str, str]]:
    """Return for each report what its systems of these names are called beside the other's."""
    folders = [path if path.is_dir() else path.parent for path in reports]
    short = [folder.resolve().name for folder in folders]
    # Folders may share their last name (run1/report, run2/report), hardly their path.
    shown = short if short[0] != short[1] else [str(folder) for folder in folders]
    return [{name: f"{name} ({folder})" for name in names} for folder in shown]
