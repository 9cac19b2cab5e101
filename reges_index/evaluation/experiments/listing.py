"""The list of a folder's experiments: what is done, what cannot run, what failed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from reges_index.errors import InputError
from reges_index.evaluation.files import read_json, write_json, write_text
from reges_index.evaluation.markdown import plain

__all__ = ["ExperimentList", "Outcome"]

Outcome: TypeAlias = Literal["done", "not_run", "failed"]


@dataclass(frozen=True)
class _Entry:
    outcome: Outcome
    text: str
    seconds: float | None = None


@dataclass
class ExperimentList:
    """What stands in ``experiments.json`` and ``experiments.md`` of a folder.

    Attributes
    ----------
    data_hash
        Of the data that all of them were made from (`EvaluationData.hash`).
    """

    data_hash: str
    _entries: dict[str, _Entry] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, data_hash: str) -> ExperimentList:
        """Return the list that a folder holds, without what was made from other data."""
        listed = cls(data_hash)
        before = _read_or_none(folder / "experiments.json") or {}
        if before.get("data_hash") == data_hash:
            for outcome in ("not_run", "failed"):
                for name, reason in before.get(outcome, {}).items():
                    listed.put(name, outcome, str(reason))
        for name in before.get("done", ()):
            # Each result says itself what it was made from, so lists of earlier versions are read too.
            result = _read_or_none(folder / f"{name}.json") or {}
            if result.get("about", {}).get("data", {}).get("hash") == data_hash:
                listed.put(name, "done", result["title"], before.get("seconds", {}).get(name))
        return listed

    def put(self, name: str, outcome: Outcome, text: str, seconds: float | None = None) -> None:
        """Note an experiment, in place of what was noted of it before.

        Parameters
        ----------
        text
            Its title if it is done, else the reason.
        seconds
            That it took.
        """
        self._entries[name] = _Entry(outcome, text, seconds)

    def write(self, folder: Path, order: Iterable[str]) -> None:
        """Write both files, experiments in the given order; raise `StorageError` where that fails."""
        entries = {name: self._entries[name] for name in order if name in self._entries}
        lines = ["# Experiments", ""]
        for name, entry in entries.items():
            if entry.outcome == "done":
                lines.append(f"- [{plain(entry.text)}]({name}.md)")
            else:
                lines.append(f"- {name}: {entry.outcome.replace('_', ' ')}, {plain(entry.text)}")
        write_text(folder / "experiments.md", "\n".join(lines) + "\n")
        value = {
            "data_hash": self.data_hash,
            "done": [name for name, entry in entries.items() if entry.outcome == "done"],
            "not_run": {n: e.text for n, e in entries.items() if e.outcome == "not_run"},
            "failed": {n: e.text for n, e in entries.items() if e.outcome == "failed"},
            "seconds": {n: e.seconds for n, e in entries.items() if e.seconds is not None},
        }
        write_json(folder / "experiments.json", value)


def _read_or_none(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path)
    except InputError:  # not there, or cut off by a killed run of an earlier version
        return None
