"""Two finished reports against each other; refused when they are about different data."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from reges_index.errors import InputError
from reges_index.evaluation.files import read_json
from reges_index.evaluation.stats import ClusterBootstrap

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

    Systems that both reports hold (the baselines) are compared only with systems of another name.

    Parameters
    ----------
    first, second
        Folders written by ``reges evaluate --out``, or the ``report.json`` in them.

    Returns
    -------
    By protocol a list of ``{"first", "second", "metric", "value", "low", "high", "p"}``, where value is
    first minus second.

    Raises
    ------
    InputError
        If they were made on different data (by content, not by file name) or by another version's metrics.
    """
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
            np.asarray(ours["dialogue"], dtype=np.int64), resamples=resamples, seed=seed, level=level
        )
        for a, one in ours["systems"].items():
            for b, other in theirs["systems"].items():
                if a == b or (a in theirs["systems"] and b in ours["systems"]):
                    continue
                found = bootstrap.compare(np.asarray(one["values"]), np.asarray(other["values"]))
                result[protocol] += [
                    {"first": a, "second": b, "metric": metric, **asdict(difference)}
                    for metric, difference in zip(tables[0]["metrics"], found, strict=True)
                ]
    return result
