"""Batch prediction over many turns, streamed to a file that a killed run goes on with."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from reges_index.dialogue.unchanged import check_unchanged, turn_hash
from reges_index.errors import ConfigError, InputError, StorageError

if TYPE_CHECKING:
    from reges_index.dialogue import Turn
    from reges_index.engines.query_engine import ReGeSQueryEngine
    from reges_index.engines.recommendation import Recommendation

__all__ = ["PredictionLog", "predict_turns", "prediction_row"]

# Key of the file beside the predictions; no setting is called so.
_INPUTS = "inputs"
# Key of a row that says from what dialogue it was made.
_DIALOGUE = "dialogue_hash"


class PredictionLog:
    """A JSONL file of predictions: read on opening, appended to line by line.

    One log at a time has a file: it is locked from the opening to `close`, the end of a ``with`` block, or
    the end of the process, however that comes. ``<path>.lock`` is left behind, empty.

    Parameters
    ----------
    path
        The file; made when missing. A half-written last line, left by a killed run, is cut off.
    settings
        What the predictions depend on, kept in ``<path>.run.json``. A file made with others, or with
        unknown ones, is refused.
    formerly
        Settings that there were none of once, and what a file that does not say them was made with.

    Raises
    ------
    InputError
        If the file holds something else, was made with other settings, or another process writes to it. It is
        left as it was.
    StorageError
        If it cannot be written.
    """

    def __init__(
        self, path: Path, settings: Mapping[str, Any], *, formerly: Mapping[str, Any] | None = None
    ) -> None:
        self.path = path
        self._formerly = dict(formerly or {})
        self.counts: Counter[str] = Counter()
        try:
            if path.exists() and not path.is_file():
                raise InputError(f"{path} is no regular file", hint="name a file for the predictions")
            path.parent.mkdir(parents=True, exist_ok=True)
            self._settings: dict[str, Any] = json.loads(json.dumps(dict(settings), default=str))
            self._check_settings()  # before the lock's file is made: nothing is left beside others' files
            self._lock = FileLock(path.with_name(path.name + ".lock"), thread_local=False)
            self._acquire()
            try:
                self._check_settings()
                if not self._holds_rows():
                    self._write_beside(self._settings)
                self._made_from = self._read()
                self.finished = set(self._made_from)
            except BaseException:
                self._lock.release()
                raise
        except OSError as error:
            raise _unwritable(path, error) from error

    def _acquire(self) -> None:
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise InputError(
                f"another process writes to {self.path}",
                hint="wait until it has ended, or give another --out",
            ) from None

    def __enter__(self) -> PredictionLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let others have the file."""
        self._lock.release()

    def require_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Refuse to go on where a run began with other data: a catalog, adapters, ... of other content.

        Parameters
        ----------
        inputs
            What the predictions depend on beside the settings, as plain values such as hashes. Kept with the
            settings when the first run says them.

        Raises
        ------
        InputError
            Naming what has changed.
        """
        given = json.loads(json.dumps(dict(inputs)))
        if self._holds_rows():
            before = self._read_beside().get(_INPUTS)
            if not isinstance(before, dict):
                raise InputError(
                    f"{self.path} does not say from which catalog and adapters it was made",
                    hint="give another --out, or remove the file and its .run.json",
                )
            changed = sorted(key for key in {*before, *given} if before.get(key) != given.get(key))
            if changed:
                said = ", ".join(f"{key} (then {before.get(key)}, now {given.get(key)})" for key in changed)
                raise InputError(
                    f"{self.path} was begun with what has changed since: {said}",
                    hint="give another --out, or put back what it was begun with",
                )
            return
        try:
            self._write_beside({**self._settings, _INPUTS: given})
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def require_turns(self, turns: Sequence[Turn]) -> None:
        """Refuse to go on where a finished turn is another one now: same id, other messages or mentions.

        Rows that do not say what they were made from, those of earlier versions, are taken as they are.

        Raises
        ------
        InputError
            Naming the turns.
        """
        check_unchanged(
            self.path,
            self._made_from,
            turns,
            _dialogue_hash,
            labels="mentions",
            hint="give another --out, or put back the conversations that it was begun with",
        )

    def _holds_rows(self) -> bool:
        return self.path.exists() and self.path.stat().st_size > 0

    @property
    def _beside(self) -> Path:
        return self.path.with_name(self.path.name + ".run.json")

    def _check_settings(self) -> None:
        if not self._holds_rows():
            return
        before, settings = ({**self._formerly, **said} for said in (self._read_beside(), self._settings))
        before.pop(_INPUTS, None)
        differing = sorted(key for key in {*before, *settings} if before.get(key) != settings.get(key))
        if differing:
            raise InputError(
                f"{self.path} was made with other settings: {', '.join(differing)}",
                hint="give another --out, or remove the file and its .run.json",
            )

    def _write_beside(self, values: Mapping[str, Any]) -> None:
        temporary = self._beside.with_suffix(".tmp")
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, self._beside)  # noqa: PTH105 (the one call that is atomic everywhere)

    def _read_beside(self) -> dict[str, Any]:
        beside = self._beside
        try:
            before = json.loads(beside.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            before = None
        if not isinstance(before, dict):
            raise InputError(
                f"{self.path} is there, but {beside.name} does not say how it was made",
                hint="give another --out, or remove the file",
            )
        return before

    def _read(self) -> dict[str, str | None]:
        """Return the ids of the rows, each with the hash of its dialogue where the row has one."""
        if not self.path.exists():
            return {}
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        made_from: dict[str, str | None] = {}
        for number, line in enumerate(data[:whole].split(b"\n"), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                made_from[str(row["id"])] = row.get(_DIALOGUE)
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{self.path}:{number}: not a prediction", hint="give another --out, or repair the line"
                ) from error
        if whole < len(data):  # only now: a file that is none of ours has been refused above
            os.truncate(self.path, whole)
        return made_from

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows and wait until they are on the disk."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        try:
            with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self.finished.update(str(row["id"]) for row in rows)


def prediction_row(turn: Turn, found: Recommendation) -> dict[str, Any]:
    """Return the line of one turn: id, query, ranking, probabilities, recommendation, and how it went.

    ``tokens`` are those that the stages count, by the measure of their model; a stage that did not ask one
    has none.
    """
    query, rerank = found.report.get("query", {}), found.report.get("rerank", {})
    tokens = {
        "query history": query.get("history_tokens"),
        "rerank candidates": rerank.get("candidate_tokens"),
        "rerank reasoning": rerank.get("reasoning_tokens"),
    }
    return {
        "id": turn.id,
        "query": found.query,
        "ranking": found.ranking,
        "probabilities": [c.probability for c in found.candidates],
        "recommendation": found.item.id if found.item else None,
        "hallucinated": rerank.get("outcome") == "hallucinated",
        "timings": found.timings,
        "tokens": {stage: count for stage, count in tokens.items() if count is not None},
        _DIALOGUE: _dialogue_hash(turn),
    }


def _dialogue_hash(turn: Turn) -> str:
    return turn_hash(turn, turn.mentioned)


def predict_turns(
    engine: ReGeSQueryEngine,
    turns: Sequence[Turn],
    log: PredictionLog,
    *,
    batch_size: int = 8,
    show_progress: bool = False,
) -> None:
    """Predict for every turn that the log has not yet, and write the rows, batches sorted by length.

    With the engine's ``exclude_mentioned`` the items labelled as ``mentioned`` in a turn are excluded
    beside those that are found by title. ``log.counts`` gets what was cut or went wrong. The progress bar
    goes to standard error.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size} cannot be used", hint="give at least 1")
    todo = [turn for turn in turns if turn.id not in log.finished]
    order = sorted(todo, key=lambda turn: sum(len(message.content) for message in turn.messages))
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not show_progress) as progress:
        bar = progress.add_task("predicting", total=len(order))
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            barred = [turn.mentioned or () if engine.exclude_mentioned else () for turn in batch]
            results = engine.recommend_batch(batch, exclude_ids=barred)
            log.write([prediction_row(t, found) for t, found in zip(batch, results, strict=True)])
            for found in results:
                log.counts.update(_notes(found))
            progress.advance(bar, len(batch))


def _notes(found: Recommendation) -> Counter[str]:
    query, rerank = found.report.get("query", {}), found.report.get("rerank", {})
    notes = {
        "dialogues_cut": any(
            part.get(cut) for part in (query, rerank) for cut in ("messages_dropped", "message_shortened")
        ),
        "abstracts_shortened": bool(rerank.get("candidates_shortened")),
        "query_fallbacks": bool(query.get("fallback")),
        "hallucinations": rerank.get("outcome") == "hallucinated",
        "selection_fallbacks": bool(rerank.get("fallbacks")),
        "selection_failures": rerank.get("outcome") == "failed",
        "nothing_to_recommend": found.item is None,
    }
    return Counter({name: int(happened) for name, happened in notes.items()})


def _unwritable(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be written ({error.strerror or error})",
        hint="free some space or choose another folder; finished predictions are kept",
    )
