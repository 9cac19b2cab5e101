"""Pseudo-queries: what LLM_QR learns to write (section 2.3, generative self-supervision)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from llama_index.core.llms.llm import LLM

from reges_index.catalog import Item
from reges_index.dialogue import Turn
from reges_index.dialogue.render import HISTORY_FORMAT
from reges_index.dialogue.wording import MOVIES, Domain, template_hash
from reges_index.models.local_lm import LocalLM
from reges_index.query_expert.prompt import DEFAULT_PSEUDO_QUERY_TMPL, build_pseudo_query_prompt
from reges_index.query_expert.transform import clean_query
from reges_index.training.annotate import NoteTask, Progress, TeacherReport, annotate, read_notes
from reges_index.training.teacher import ANSWER_TOKENS, Teacher, TeacherSettings

__all__ = [
    "PSEUDO_QUERY_PROMPT_HASH",
    "QUERY_TOKENS",
    "PseudoQueryReport",
    "read_pseudo_queries",
    "write_pseudo_queries",
]

PseudoQueryReport: TypeAlias = TeacherReport

DEFAULT_SETTINGS = TeacherSettings()

QUERY_TOKENS = ANSWER_TOKENS
"""Most tokens of an answer by default."""

PSEUDO_QUERY_PROMPT_HASH = template_hash("pseudo-query", DEFAULT_PSEUDO_QUERY_TMPL.template, HISTORY_FORMAT)

_TASK = NoteTask(
    field="query",
    build=build_pseudo_query_prompt,
    prompt_hash=PSEUDO_QUERY_PROMPT_HASH,
    clean=clean_query,
)


def write_pseudo_queries(
    turns: Sequence[Turn],
    items: Mapping[str, Item] | Iterable[Item],
    teacher: LLM | LocalLM | None,
    out: str | Path,
    *,
    settings: TeacherSettings = DEFAULT_SETTINGS,
    domain: Domain = MOVIES,
    filter_leaks: bool = True,
    progress: Progress | None = None,
) -> PseudoQueryReport:
    """Let a teacher write the search query of each turn, with the true items in sight.

    One query a turn: a turn with several targets shows them all (the paper's "Ground truth items").

    Parameters
    ----------
    turns
        Those with a target in the catalog are asked for; the others are listed in the report.
    items
        The catalog's items.
    teacher
        Any LlamaIndex LLM, a `LocalLM`, or None for the embedded model.
    out
        JSONL, ``{"id", "query"}`` a line, synced line by line. A file that an earlier run of the same
        teacher and prompt began is continued.
    settings
        Concurrency, retries, prices.
    domain
        What an item is called.
    filter_leaks
        Ask again, then leave out, when a query names a target that the dialogue does not name
        (`TitleLeaks`).
    progress
        Called with the number of turns done and to do.

    Returns
    -------
    PseudoQueryReport
        What was written, left out and spent.

    Raises
    ------
    InputError
        If ``out`` was begun with another teacher or prompt, or a prompt does not fit into the teacher.
    ModelError
        If the teacher cannot be used, or stopped answering; what was written is kept.
    StorageError
        If the disk is full; what was written is kept.
    """
    return annotate(
        turns, items, Teacher(teacher, settings.for_answers_of(QUERY_TOKENS)), out, _TASK,
        domain=domain, filter_leaks=filter_leaks, progress=progress,
    )  # fmt: skip


def read_pseudo_queries(path: str | Path, *, turns: Sequence[Turn] | None = None) -> dict[str, str]:
    """Read pseudo-queries, whoever wrote them: ``{"id", "query"}`` a line, id of the turn to query.

    Turns may lack a query (LLM_QR is trained on those that have one), but a query for none of ``turns``
    is an error.

    Raises
    ------
    InputError
        Naming file and line: malformed JSON, an id twice, an empty query, an id of none of ``turns``.
    """
    return read_notes(path, "query", turns=turns)
