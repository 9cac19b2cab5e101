"""One file that grows by a line for each turn: what pseudo-queries, reasoning, rankings and negatives share.

Every line is on the disk before the next one is made, so a killed run goes on where it stopped. What was left
out, and why, stands in ``<out>.left-out.jsonl`` and is not asked for again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from llama_index.core.base.llms.types import ChatMessage, MessageRole

from reges_index.dialogue import Turn
from reges_index.dialogue.messages import turn_hash
from reges_index.errors import InputError, LLMServerError, ModelError
from reges_index.files import RunLog, json_lines
from reges_index.models.api import tallied
from reges_index.training.teacher import Teacher, TeacherAnswer

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

LEAKING = "naming a target twice"
USELESS = "of no use twice"


@dataclass
class TurnReport:
    """What a run over turns did. Counts are of this run, except ``already``.

    Attributes
    ----------
    out
        The file.
    turns, written, already
        Turns given; lines written; turns that the file, or the list of those left out, held before.
    left_out
        Reason to the ids of turns that have no line for it.
    repaired_bytes
        Length of the half-written line that a killed run had left.
    seconds
        Wall clock.
    """

    out: str
    turns: int = 0
    written: int = 0
    already: int = 0
    left_out: dict[str, list[str]] = field(default_factory=dict)
    repaired_bytes: int = 0
    seconds: float = 0.0

    def leave_out(self, turn: Turn, reason: str) -> None:
        """Count a turn that has no line."""
        self.left_out.setdefault(reason, []).append(turn.id)

    def sift(self, turns: Sequence[Turn], why_not: Callable[[Turn], str | None]) -> list[Turn]:
        """Return the turns that there is no reason to leave out, and count the others."""
        kept = []
        for turn in turns:
            reason = why_not(turn)
            if reason is None:
                kept.append(turn)
            else:
                self.leave_out(turn, reason)
        return kept


@dataclass
class TeacherReport(TurnReport):
    """What a run of the teacher did; see `TurnReport`.

    Attributes
    ----------
    teacher
        The model's name.
    leaked_first
        How many first answers gave away a title; those whose second answer did so too are left out.
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
    """

    teacher: str = ""
    leaked_first: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    answers_cut: int = 0
    histories_cut: int = 0
    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    tokens_estimated: bool = False
    cost: float | None = None

    def add(self, answer: TeacherAnswer) -> None:
        """Count one answer."""
        self.requests += 1
        self.prompt_tokens += answer.prompt_tokens
        self.new_tokens += answer.new_tokens
        self.tokens_estimated |= answer.estimated
        self.answers_cut += answer.cut

    def require_answers(self) -> None:
        """Raise `ModelError` if turns got no answer: another run may get them."""
        if self.failed:
            key, reason = next(iter(self.failed.items()))
            raise ModelError(
                f"{len(self.failed)} turns got no answer; {key}: {reason}",
                hint="run the same again to ask for these; what was written is kept",
            )


@contextmanager
def turn_file(
    report: TurnReport,
    turns: Sequence[Turn],
    made_by: Mapping[str, Any],
    *,
    targets: bool = False,
) -> Iterator[tuple[RunLog, list[Turn]]]:
    """Open a file of turns, begun or not, and give it with the turns that it still lacks.

    Parameters
    ----------
    made_by
        Everything that shapes a line; a file of other settings is not continued.
    targets
        Whether lines are made from the turns' targets, too.

    Raises
    ------
    InputError
        If the file was begun with other settings, or a turn in it has changed.
    StorageError
        If the disk is full; what was written is kept.
    """
    started = time.monotonic()
    report.turns = len(turns)
    with RunLog(report.out, made_by) as log:
        hashes = {turn.id: turn_hash(turn, turn.targets if targets else None) for turn in turns}
        log.require_unchanged(hashes, what="messages or targets" if targets else "messages")
        report.repaired_bytes = log.repaired
        waiting = [turn for turn in turns if turn.id not in log.finished]
        report.already = len(turns) - len(waiting)
        yield log, waiting
    report.seconds = time.monotonic() - started


# -- what is asked of a teacher ------------------------------------------------------------------------------


class Reading(NamedTuple):
    """What an answer gives: its row, empty where it is of no use, and the titles that it gives away."""

    row: Mapping[str, Any]
    leaked: tuple[str, ...] = ()


class Task(ABC):
    """What is asked of the teacher about each turn.

    Attributes
    ----------
    made_by
        Everything that shapes a row beside the teacher.
    reads_targets
        Whether the prompt shows the turn's targets.
    """

    made_by: Mapping[str, Any]
    reads_targets = False

    @abstractmethod
    def why_not(self, turn: Turn) -> str | None:
        """Return why nothing is asked about a turn; None to ask."""

    @abstractmethod
    def prompt(self, turn: Turn, teacher: Teacher) -> tuple[Sequence[ChatMessage], bool]:
        """Return the prompt, and whether the dialogue was cut for it."""

    @abstractmethod
    def read(self, turn: Turn, text: str) -> Reading:
        """Read an answer."""

    @abstractmethod
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


def annotate(
    turns: Sequence[Turn], teacher: Teacher, out: str | Path, task: Task, progress: Progress | None = None
) -> TeacherReport:
    """Write down what the teacher says of every turn.

    Raises
    ------
    InputError, StorageError
        As `turn_file`; also if a prompt does not fit into the teacher.
    ModelError
        If the teacher cannot be used, stopped answering, or gives nothing but nonsense; what was written is
        kept.
    """
    report = TeacherReport(str(out), teacher=teacher.name)
    made_by = {**task.made_by, "teacher": teacher.name}
    with turn_file(report, turns, made_by, targets=task.reads_targets) as (log, waiting):
        waiting = report.sift(waiting, task.why_not)
        _wait_for(_Run(task, teacher, log, report).all(waiting, progress))
    report.cost = teacher.settings.cost(report.prompt_tokens, report.new_tokens)
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


# A wrong key, no permission, no such model: every further request would be answered the same.
_HOPELESS_STATUS = frozenset({401, 403, 404})
# So many first answers of no use, and none of any, end a run: it would be paid for to the end.
_ALL_USELESS = 20


@dataclass
class _Run:
    task: Task
    teacher: Teacher
    log: RunLog
    report: TeacherReport
    failed_in_a_row: int = 0

    async def all(self, turns: list[Turn], progress: Progress | None) -> None:
        queue = iter(turns)
        finished = 0

        async def worker() -> None:
            nonlocal finished
            for turn in queue:  # shared: each worker takes the next one
                await self.one(turn)
                finished += 1
                if progress is not None:
                    progress(finished, len(turns))

        with tallied() as sent:
            workers = [asyncio.ensure_future(worker()) for _ in range(min(self.teacher.at_once, len(turns)))]
            try:
                await asyncio.gather(*workers)
            finally:  # the first error ends the run: nobody pays for answers that are thrown away
                for task in workers:
                    task.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
                self.report.retries = sent.retries

    async def one(self, turn: Turn) -> None:
        """Ask about one turn, a second time when the first answer is of no use or gives the truth away."""
        report = self.report
        messages, cut = self.task.prompt(turn, self.teacher)
        report.histories_cut += cut
        reading, text, is_good = Reading({}), "", False
        try:
            for attempt in (1, 2):
                answer = await self.teacher.ask(messages)
                report.add(answer)
                text = answer.text
                reading = self.task.read(turn, text)
                if is_good := bool(reading.row) and not reading.leaked:
                    break
                report.leaked_first += bool(reading.leaked) and attempt == 1
                *before, last = messages
                again = f"{last.content}\n\n{self.task.reminder(reading)}"
                messages = [*before, ChatMessage(role=MessageRole.USER, content=again)]
        except LLMServerError as error:
            if error.status in _HOPELESS_STATUS:
                raise
            self._failed(turn, error)
            return
        self.failed_in_a_row = 0
        if is_good:
            made = turn_hash(turn, turn.targets if self.task.reads_targets else None)
            self.log.write([{"id": turn.id, **reading.row, RunLog.MADE_FROM: made}])
            report.written += 1
            return
        report.leave_out(turn, LEAKING if reading.leaked else USELESS)
        why = {"reason": "leak", "titles": list(reading.leaked)} if reading.leaked else {"reason": "empty"}
        self.log.leave_out({"id": turn.id, **why, **(reading.row or {"answer": text})})
        useless = len(report.left_out.get(USELESS, ()))
        if not report.written and not report.already and useless >= _ALL_USELESS:
            raise ModelError(
                f"the first {useless} answers of {report.teacher} are of no use; the last: {text[:80]!r}",
                hint=f"see {self.log.left_out_path}; take another teacher",
            )

    def _failed(self, turn: Turn, error: LLMServerError) -> None:
        self.report.failed[turn.id] = error.message
        self.failed_in_a_row += 1
        logger.warning("turn %s: %s", turn.id, error.message)
        if self.failed_in_a_row >= self.teacher.settings.patience:
            raise ModelError(
                f"{self.failed_in_a_row} turns in a row without an answer; the last: {error.message}",
                hint=f"the {self.report.written} new lines are kept in {self.report.out}; run again to go on",
            )


# -- reading such files --------------------------------------------------------------------------------------


def rows_of(path: str | Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield place, id of the turn and row for each line of a file of turns.

    Raises
    ------
    InputError
        Naming file and line: malformed JSON, no id, an id twice.
    """
    lines: dict[str, int] = {}
    for number, row in json_lines(path):
        where, key = f"{path}:{number}", row.get("id")
        if not isinstance(key, str) or not key:
            raise InputError(f"{where}: the row has no 'id'")
        if key in lines:
            raise InputError(f"{where}: id {key!r} was used on line {lines[key]} already")
        lines[key] = number
        yield where, key, row
