"""An evaluation as plain data: what `report.json` holds, with every digit."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import numpy as np

from reges_index.evaluation.calibration import calibration_of
from reges_index.evaluation.diagnosis import by_group, fate_counts, fates
from reges_index.evaluation.metrics import DEPTH, METRICS, profile_recommendations
from reges_index.evaluation.predictions import AlignedPredictions
from reges_index.evaluation.protocol import ProtocolName
from reges_index.evaluation.scoring import Evaluation

__all__ = ["SCHEMA", "provenance", "score_table", "spread", "summarize"]

SCHEMA = "reges-evaluation/1"


def summarize(evaluation: Evaluation, *, command: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the whole evaluation as JSON data; docs/evaluation.md describes the fields.

    Parameters
    ----------
    command
        What made it, program first; None for this process's own command line.
    """
    data = evaluation.data
    return {
        "schema": SCHEMA,
        "data": {
            "hash": data.hash,
            "files": data.files,
            "turns": len(data.turns),
            "items": len(data.items),
            "train_turns": len(data.train),
        },
        "settings": {
            **evaluation.settings.model_dump(include={"resamples", "seed", "level", "top_k"}),
            "depth": DEPTH,
        },
        "metrics": list(METRICS),
        "systems": {system.name: _system(system, evaluation) for system in evaluation.systems},
        "baselines_left_out": evaluation.missing_baselines,
        "protocols": {protocol: _protocol(evaluation, protocol) for protocol in evaluation.pairs},
        "provenance": provenance(command),
    }


def _system(system: AlignedPredictions, evaluation: Evaluation) -> dict[str, Any]:
    judged = [h for h in system.hallucinated if h is not None]
    s = evaluation.settings
    found = calibration_of(system, evaluation.data, resamples=s.resamples, seed=s.seed, level=s.level)
    return {
        "baseline": system.name in evaluation.baselines,
        "source": system.source,
        "counts": system.counts,
        "examples": system.examples,
        "matching": system.matching,
        "hallucination": {
            "answers": len(judged),
            "no_catalog_item": sum(judged),
            "ratio": sum(judged) / len(judged) if judged else None,
        },
        "calibration": None if found is None else found.as_dict(),
        "timings": spread([p.timings for p in system.predictions if p is not None]),
        "tokens": spread([p.tokens for p in system.predictions if p is not None]),
    }


def spread(rows: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return count, mean, median, 95th percentile and sum of numbers by stage."""
    stages = dict.fromkeys(stage for row in rows for stage in row)
    result = {}
    for stage in stages:
        values = np.array([row[stage] for row in rows if stage in row], dtype=np.float64)
        result[stage] = {
            "count": len(values),
            "mean": float(values.mean()),
            "median": float(np.median(values)),
            "p95": float(np.quantile(values, 0.95)),
            "sum": float(values.sum()),
        }
    return result


def _protocol(evaluation: Evaluation, protocol: ProtocolName) -> dict[str, Any]:
    pairs = evaluation.pairs[protocol]
    if not pairs.target:
        return {"counts": pairs.counts.as_dict(), "systems": {}, "comparisons": []}
    data = evaluation.data
    per_target = evaluation.estimates(protocol, "target")
    per_dialogue = evaluation.estimates(protocol, "dialogue")
    systems = {}
    for system in evaluation.systems:
        scores = evaluation.scores[protocol][system.name]
        found = fates(pairs, scores, data.positions, top_k=evaluation.settings.top_k, system=system)
        profile = profile_recommendations(
            pairs, system.rankings, data.positions, data.popularity, system.recommended
        )
        systems[system.name] = {
            "per_target": {metric: asdict(e) for metric, e in per_target[system.name].items()},
            "per_dialogue": {metric: asdict(e) for metric, e in per_dialogue[system.name].items()},
            "recommendations": asdict(profile),
            "fates": fate_counts(found),
            "groups": by_group(data.turns, pairs, scores, found),
        }
    comparisons = [
        {"first": c.first, "second": c.second, "metric": c.metric, **asdict(c.difference), "p_holm": c.p_holm}
        for c in evaluation.comparisons(protocol)
    ]
    return {"counts": pairs.counts.as_dict(), "systems": systems, "comparisons": comparisons}


def score_table(evaluation: Evaluation) -> dict[str, Any]:
    """Return every system's values on every pair, for paired tests against other reports."""
    return {
        "schema": SCHEMA,
        "data_hash": evaluation.data.hash,
        "metrics": list(METRICS),
        "protocols": {
            protocol: {
                "turn": [evaluation.data.turns[t].id for t in pairs.turn.tolist()],
                "target": list(pairs.target),
                "dialogue": pairs.dialogue.tolist(),
                "systems": {
                    name: {"values": s.values.tolist(), "rank": s.rank.tolist()}
                    for name, s in evaluation.scores.get(protocol, {}).items()
                },
            }
            for protocol, pairs in evaluation.pairs.items()
        },
    }


_PACKAGES = (
    "reges-index",
    "bm25s",
    "chromadb",
    "llama-index-core",
    "numpy",
    "peft",
    "rouge-score",
    "sacrebleu",
    "scipy",
    "torch",
    "transformers",
)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - a kernel file
            name = next((line for line in lines if line.startswith("model name")), "")
        return name.partition(":")[2].strip() or platform.processor() or platform.machine()
    except OSError:
        return platform.processor() or platform.machine()


def provenance(command: Sequence[str] | None = None) -> dict[str, Any]:
    """Describe this run.

    Parameters
    ----------
    command
        Program and arguments; None for those of this process. They go into the report as they are.

    Returns
    -------
    ``command``, ``time`` (UTC), ``python``, ``versions`` by package, and ``machine`` (system, processor,
    logical cores). The host's and the user's name are left out.
    """
    words = list(command) if command is not None else [os.path.basename(sys.argv[0]), *sys.argv[1:]]  # noqa: PTH119
    return {
        "command": shlex.join(words),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in _PACKAGES},
        "machine": {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()},
    }
