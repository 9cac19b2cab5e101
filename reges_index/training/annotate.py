"""Asking a teacher about every turn: what pseudo-queries, reasoning and rankings share.

One file grows by one synced line a turn. A killed run goes on where it stopped; what was left out, and why,
stands in ``<out>.left-out.jsonl`` and is not asked for again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from llama_index.core.base.llms.types import ChatMessage, MessageRole

from reges_index.catalog import Item
from reges_index.dialogue import Turn
from reges_index.errors import InputError, ModelError
from reges_index.files import RunLog, json_lines
from reges_index.training.teacher import Teacher, TeacherAnswer, TeacherRefused

__all__ = ["Progress", "Reading", "Task", "TeacherReport", "annotate", "by_id", "read_notes", "room_beside"]

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Reading:
    """What an answer of the teacher gives.

    Attributes
    ----------
    row
        Fields of the turn's row beside its ``id``; empty when the answer is of no use.
    leaked
        Titles that the answer gives away.
    """

    row: Mapping[str, Any]
    leaked: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether the row can be written."""
        return bool(self.row) and not self.leaked


class Task(Protocol):
    """What is asked of the teacher about each turn."""

    @property
    def made_by(self) -> Mapping[str, Any]:
        """Everything that shapes a row beside the teacher; a file of other settings is not continued."""

    def skip(self, turn: Turn) -> str | None:
        """Return the report's list for a turn about which nothing is asked, by name; None to ask."""

    def prompt(self, turn: Turn, teacher: Teacher) -> tuple[Sequence[ChatMessage], bool]:
        """Return the prompt, and whether the dialogue was cut for it."""

    def read(self, turn: Turn, text: str) -> Reading:
        """Read an answer."""

    def reminder(self, reading: Reading) -> str:
        """Return what is added to the prompt when it is asked again."""


def room_beside(messages: Sequence[ChatMessage], turn: Turn, teacher: Teacher) -> int:
    """Return how many tokens of dialogue fit into a prompt that has these without any.

    Raises
    ------
    InputError
        If next to none do.
    """
    # 64 for the chat template and a reminder.
    taken = 64 + sum(teacher.measure.count(m.content or "") for m in messages)
    room = teacher.max_prompt_tokens - taken
    if room < 16:
        raise InputError(
            f"turn {turn.id}: the prompt without the dialogue has {taken} of the "
            f"{teacher.max_prompt_tokens} tokens that {teacher.name} can read here",
            hint="raise max_input_tokens, or take a teacher with a larger context",
        )
    return room


@dataclass
class TeacherReport:
    """What a run of the teacher did. Counts are of this run, except ``already``.

    Attributes
    ----------
    out, teacher
        The file, and the model's name.
    turns, written, already
        Turns given; notes written; turns that the file, or the list of those left out, held before.
    without_target, unknown_target
        Ids of turns that name no target, or none that is in the catalog. Nothing was asked for them.
    without_candidates
        Ids of turns for which nothing was found that could be ranked.
    leaked_first, leaked
        How many first answers gave away a title; ids of the turns whose second answer did so too.
    empty
        Ids of turns without a usable answer, twice.
    failed
        Id and reason of turns that the teacher did not answer. The next run asks for them again.
    answers_cut, histories_cut
        Answers that ended at their length limit; turns whose oldest messages did not fit into the prompt.
    requests, retries
        Questions answered, and attempts beyond the first.
    prompt_tokens, new_tokens, tokens_estimated
        Tokens read and written, and whether some were counted by an approximate tokenizer.
    cost
        By the prices in `TeacherSettings`; None without them.
    repaired_bytes
        Length of the half-written line that a killed run had left.
    seconds
        Wall clock.
    """

    out: str
    teacher: str
    turns: int = 0
    written: int = 0
    already: int = 0
    without_target: list[str] = field(default_factory=list)
    unknown_target: list[str] = field(default_factory=list)
    without_candidates: list[str] = field(default_factory=list)
    leaked_first: int = 0
    leaked: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    answers_cut: int = 0
    histories_cut: int = 0
    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    tokens_estimated: bool = False
    cost: float | None = None
    repaired_bytes: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return asdict(self)

    def add(self, answer: TeacherAnswer) -> None:
        """Count one answer."""
        self.requests += 1
        self.prompt_tokens += answer.prompt_tokens
        self.new_tokens += answer.new_tokens
        self.tokens_estimated |= answer.estimated
        self.answers_cut += answer.cut


# So many first answers of no use, and none of any, end a run: it would be paid for to the end.
_ALL_USELESS = 20


@dataclass
class _Run:
    task: Task
    teacher: Teacher
    log: RunLog
    report: TeacherReport
    failed_in_a_row: int = 0

    async def one(self, turn: Turn) -> None:
        """Ask about one turn, a second time when the first answer is of no use or gives the truth away."""
        report = self.report
        messages, cut = self.task.prompt(turn, self.teacher)
        report.histories_cut += cut
        reading, text = Reading({}), ""
        try:
            for attempt in (1, 2):
                reminder = self.task.reminder(reading) if attempt == 2 else ""
                answer = await self.teacher.ask(_with_reminder(messages, reminder))
                report.add(answer)
                text = answer.text
                reading = self.task.read(turn, text)
                if reading.is_good:
                    break
                report.leaked_first += bool(reading.leaked) and attempt == 1
        except TeacherRefused as error:
            self._failed(turn, error)
            return
        self.failed_in_a_row = 0
        if reading.is_good:
            self.log.write([{"id": turn.id, **reading.row}])
            report.written += 1
            return
        (report.leaked if reading.leaked else report.empty).append(turn.id)
        why = {"reason": "leak", "titles": list(reading.leaked)} if reading.leaked else {"reason": "empty"}
        self.log.leave_out({"id": turn.id, **why, **(reading.row or {"answer": text})})
        if not report.written and not report.already and len(report.empty) >= _ALL_USELESS:
            raise ModelError(
                f"the first {len(report.empty)} answers of {report.teacher} are of no use; "
                f"the last: {text[:80]!r}",
                hint=f"see {self.log.left_out_path}; take another teacher",
            )

    def _failed(self, turn: Turn, error: TeacherRefused) -> None:
        self.report.failed[turn.id] = error.message
        self.failed_in_a_row += 1
        logger.warning("turn %s: %s", turn.id, error.message)
        if self.failed_in_a_row >= self.teacher.settings.patience:
            raise ModelError(
                f"{self.failed_in_a_row} turns in a row without an answer; the last: {error.message}",
                hint=f"the {self.report.written} new notes are kept in {self.report.out}; run again to go on",
            )


def by_id(items: Mapping[str, Item] | Iterable[Item]) -> dict[str, Item]:
    """Return items keyed by id."""
    if isinstance(items, Mapping):
        return dict(items)
    return {item.id: item for item in items}


def annotate(
    turns: Sequence[Turn],
    teacher: Teacher,
    out: str | Path,
    task: Task,
    *,
    progress: Progress | None = None,
) -> TeacherReport:
    """Write down what the teacher says of every turn.

    Raises
    ------
    InputError
        If ``out`` was begun with another teacher or prompt, a turn in it has changed, or a prompt does not
        fit into the teacher.
    ModelError
        If the teacher cannot be used, stopped answering, or gives nothing but nonsense; what was written is
        kept.
    StorageError
        If the disk is full.
    """
    out = Path(out)
    report = TeacherReport(str(out), teacher.name, turns=len(turns))
    started, retries = time.monotonic(), teacher.retries
    with RunLog(out, {**task.made_by, "teacher": teacher.name}) as log:
        report.repaired_bytes = log.repaired
        waiting: list[Turn] = []
        for turn in turns:
            if turn.id in log.finished:
                report.already += 1
            elif (reason := task.skip(turn)) is not None:
                getattr(report, reason).append(turn.id)
            else:
                waiting.append(turn)
        _wait_for(_all(_Run(task, teacher, log, report), waiting, progress))
    report.retries = teacher.retries - retries
    report.cost = teacher.settings.cost(report.prompt_tokens, report.new_tokens)
    report.seconds = time.monotonic() - started
    return report


def _wait_for(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end, also where an event loop runs already (a notebook): then in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, work).result()


async def _all(run: _Run, turns: list[Turn], progress: Progress | None) -> None:
    queue = iter(turns)
    finished = 0

    async def worker() -> None:
        nonlocal finished
        for turn in queue:  # shared: each worker takes the next one
            await run.one(turn)
            finished += 1
            if progress is not None:
                progress(finished, len(turns))

    count = 1 if run.teacher.runs_here else run.teacher.settings.concurrency
    workers = [asyncio.ensure_future(worker()) for _ in range(min(count, len(turns)))]
    try:
        await asyncio.gather(*workers)
    finally:  # the first error ends the run: nobody pays for answers that are thrown away
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def _with_reminder(messages: Sequence[ChatMessage], reminder: str) -> list[ChatMessage]:
    if not reminder:
        return list(messages)
    *before, last = messages
    return [*before, ChatMessage(role=MessageRole.USER, content=f"{last.content}\n\n{reminder}")]


def read_notes(path: str | Path, field: str, *, turns: Sequence[Turn] | None = None) -> dict[str, str]:
    """Read a file of notes, one ``{"id", field}`` a line; further fields are passed over.

    Parameters
    ----------
    turns
        Where given, every id has to be of one of them.

    Raises
    ------
    InputError
        Naming file and line: malformed JSON, no id, an id twice or of no turn, an empty note; or when the
        file holds no note at all.
    """
    known = {turn.id for turn in turns} if turns is not None else None
    notes: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, row in json_lines(path):
        where, key, note = f"{path}:{number}", row.get("id"), row.get(field)
        if not isinstance(key, str) or not key:
            raise InputError(f"{where}: the row has no 'id'")
        if key in lines:
            raise InputError(f"{where}: id {key!r} was used on line {lines[key]} already")
        if not isinstance(note, str) or not note.strip():
            raise InputError(
                f"{where}: {field!r} of {key!r} is {'empty' if field in row else 'missing'}",
                hint=f"each line is a JSON object with 'id' and {field!r}; remove lines without one",
            )
        if known is not None and key not in known:
            raise InputError(
                f"{where}: {key!r} is none of the {len(known)} turns",
                hint="is this file for other conversations?",
            )
        lines[key] = number
        notes[key] = note
    if not notes:
        raise InputError(f"{path}: nothing in it", hint=f"one JSON object with 'id' and {field!r} a line")
    return notes
