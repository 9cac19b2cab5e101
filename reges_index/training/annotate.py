"""A teacher's note on every turn, with the truth in sight: what pseudo-queries and reasoning share.

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
from reges_index.dialogue import TextMeasure, Turn
from reges_index.dialogue.wording import Domain
from reges_index.errors import InputError, ModelError
from reges_index.files import RunLog, json_lines
from reges_index.query_expert.prompt import QueryPrompt
from reges_index.training.leaks import TitleLeaks
from reges_index.training.teacher import Teacher, TeacherAnswer, TeacherRefused

__all__ = ["NoteTask", "PromptBuilder", "TeacherReport", "annotate", "read_notes"]

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


class PromptBuilder(Protocol):
    """Builds the teacher's prompt from the dialogue and the texts of the true items."""

    def __call__(
        self,
        dialogue: Sequence[ChatMessage],
        truth: Sequence[str],
        *,
        domain: Domain,
        max_history_tokens: int | None,
        measure: TextMeasure | None,
    ) -> QueryPrompt:
        """Return the prompt; see `reges_index.query_expert.prompt.build_pseudo_query_prompt`."""
        ...


@dataclass(frozen=True)
class NoteTask:
    """What is asked of the teacher.

    Attributes
    ----------
    field
        Name of the note in the file: each row is ``{"id": ..., field: ...}``.
    build
        Makes the prompt.
    prompt_hash
        Of its template; files of two prompts are not mixed.
    clean
        Turns an answer into the note; "" when there is none in it.
    """

    field: str
    build: PromptBuilder
    prompt_hash: str
    clean: Callable[[str], str]


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
    targets_missing
        Targets that are not in the catalog, of turns that have others.
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
    targets_missing: int = 0
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


@dataclass
class _Run:
    task: NoteTask
    teacher: Teacher
    items: Mapping[str, Item]
    domain: Domain
    leaks: TitleLeaks | None
    log: RunLog
    report: TeacherReport
    failed_in_a_row: int = 0

    async def one(self, turn: Turn) -> None:
        """Ask for one turn's note, a second time when the first is empty or gives the answer away."""
        report = self.report
        truth = [self.items[target].text() for target in turn.targets if target in self.items]
        report.targets_missing += len(turn.targets) - len(truth)
        prompt = self._prompt(turn, truth)
        report.histories_cut += bool(prompt.history.dropped or prompt.history.shortened)
        note, leaked, reminder = "", (), ""  # type: str, tuple[str, ...], str
        try:
            for attempt in (1, 2):
                answer = await self.teacher.ask(_with_reminder(prompt.messages, reminder))
                report.add(answer)
                note = self.task.clean(answer.text)
                leaked = self.leaks.find(note, turn) if self.leaks is not None else ()
                if note and not leaked:
                    break
                if leaked:
                    report.leaked_first += attempt == 1
                    reminder = (
                        f"Do not name {', '.join(leaked)} or any other {self.domain.noun} "
                        "that the conversation history does not name."
                    )
                else:
                    reminder = f"Write the {self.task.field} now."
        except TeacherRefused as error:
            self._failed(turn, error)
            return
        self.failed_in_a_row = 0
        if note and not leaked:
            self.log.write([{"id": turn.id, self.task.field: note}])
            report.written += 1
            return
        (report.leaked if leaked else report.empty).append(turn.id)
        why = {"reason": "leak", "titles": list(leaked)} if leaked else {"reason": "empty"}
        self.log.leave_out({"id": turn.id, **why, self.task.field: note})

    def _prompt(self, turn: Turn, truth: list[str]) -> QueryPrompt:
        measure = self.teacher.measure
        frame = self.task.build((), truth, domain=self.domain, max_history_tokens=None, measure=None)
        # 64 for the chat template and a reminder.
        taken = 64 + sum(measure.count(m.content or "") for m in frame.messages)
        room = self.teacher.max_prompt_tokens - taken
        if room < 16:
            raise InputError(
                f"turn {turn.id}: instruction and true items alone have {taken} of the "
                f"{self.teacher.max_prompt_tokens} tokens that {self.teacher.name} can read here",
                hint="raise max_input_tokens, or take a teacher with a larger context",
            )
        return self.task.build(turn.chat, truth, domain=self.domain, max_history_tokens=room, measure=measure)

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
    items: Mapping[str, Item] | Iterable[Item],
    teacher: Teacher,
    out: str | Path,
    task: NoteTask,
    *,
    domain: Domain,
    filter_leaks: bool = True,
    progress: Progress | None = None,
) -> TeacherReport:
    """Write the teacher's note on every turn that has a target in the catalog.

    Raises
    ------
    InputError
        If ``out`` was begun with another teacher or prompt, or a prompt does not fit into the teacher.
    ModelError
        If the teacher cannot be used, or stopped answering; what was written is kept.
    StorageError
        If the disk is full.
    """
    out = Path(out)
    catalog = by_id(items)
    report = TeacherReport(str(out), teacher.name, turns=len(turns))
    started, retries = time.monotonic(), teacher.retries
    made_by = {
        "task": task.field, "teacher": teacher.name, "prompt": task.prompt_hash, "item": domain.noun,
        "filter_leaks": filter_leaks,
    }  # fmt: skip
    with RunLog(out, made_by) as log:
        report.repaired_bytes = log.repaired
        waiting: list[Turn] = []
        for turn in turns:
            if turn.id in log.finished:
                report.already += 1
            elif not turn.targets:
                report.without_target.append(turn.id)
            elif not any(target in catalog for target in turn.targets):
                report.unknown_target.append(turn.id)
            else:
                waiting.append(turn)
        leaks = TitleLeaks(catalog) if filter_leaks else None
        run = _Run(task, teacher, catalog, domain, leaks, log, report)
        _wait_for(_all(run, waiting, progress))
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
