"""Where a number comes from: versions, machine, exact command."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

__all__ = ["provenance"]

_PACKAGES = (
    "reges-index",
    "bm25s",
    "chromadb",
    "llama-index-core",
    "numpy",
    "peft",
    "ranx",
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
