"""What a teacher writes with the truth in sight: pseudo-queries (section 2.3), and reasoning (section 3.7.2).

LLM_QR learns to write the queries. For the chain-of-thought variant of LLM_G the paper prompts a model to
"summarize user preferences step by step" and puts the result in front of the item in each training example.
It is written like the pseudo-queries: the truth in sight, so that the summary stresses what leads to it, and
without its title, which at inference has to come from the candidates.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import PromptTemplate

from reges_index.catalog import Item
from reges_index.dialogue import Turn, one_line
from reges_index.dialogue.render import HISTORY_FORMAT
from reges_index.dialogue.wording import MOVIES, Domain, template_hash
from reges_index.models.local_lm import LocalLM
from reges_index.query_expert.cleaning import clean_query
from reges_index.query_expert.prompt import (
    DEFAULT_PSEUDO_QUERY_TMPL,
    QueryPrompt,
    build_pseudo_query_prompt,
)
from reges_index.training.annotate import (
    Progress,
    Reading,
    TeacherReport,
    annotate,
    by_id,
    read_notes,
    room_beside,
)
from reges_index.training.leaks import TitleLeaks
from reges_index.training.teacher import ANSWER_TOKENS, Teacher, TeacherSettings

__all__ = [
    "DEFAULT_REASONING_TMPL",
    "PSEUDO_QUERY_PROMPT_HASH",
    "QUERY_TOKENS",
    "REASONING_PROMPT_HASH",
    "REASONING_TOKENS",
    "read_pseudo_queries",
    "read_reasoning",
    "write_pseudo_queries",
    "write_reasoning",
]

# The paper describes this prompt without printing it; the wording is ours.
DEFAULT_REASONING_TMPL = PromptTemplate(
    "Think step by step: summarize in two or three short sentences the preferences that the seeker reveals "
    "in the conversation history, particularly those that the ground truth {item_noun} meets, paying "
    "attention to {item_details}, etc. Do not name the ground truth {item_noun}. Only output "
    "the summary.\n"
    "\n"
    "Conversation history: {conversation_history}\n"
    "\n"
    "Ground truth items: {ground_truth_items}"
)

DEFAULT_SETTINGS = TeacherSettings()

QUERY_TOKENS = ANSWER_TOKENS
"""Most tokens of a query by default."""
REASONING_TOKENS = 256
"""Most tokens of reasoning by default: two or three sentences, of which none may be cut."""

PSEUDO_QUERY_PROMPT_HASH = template_hash("pseudo-query", DEFAULT_PSEUDO_QUERY_TMPL.template, HISTORY_FORMAT)
REASONING_PROMPT_HASH = template_hash("reasoning", DEFAULT_REASONING_TMPL.template, HISTORY_FORMAT)

_LABEL = re.compile(r"^\W*(?:summary|reasoning|preferences)\W*:\s*", re.IGNORECASE)


def clean_reasoning(text: str) -> str:
    """Return the reasoning on one line: in the answer that LLM_G learns, the next line is the item."""
    return _LABEL.sub("", one_line(text)).strip()


@dataclass
class _Note:
    """A text about each turn that has a target in the catalog, written with the true items in sight."""

    field: str
    template: PromptTemplate
    prompt_hash: str
    clean: Callable[[str], str]
    items: Mapping[str, Item]
    domain: Domain
    leaks: TitleLeaks | None

    @property
    def made_by(self) -> Mapping[str, Any]:
        return {
            "task": self.field, "prompt": self.prompt_hash, "item": self.domain.noun,
            "filter_leaks": self.leaks is not None,
        }  # fmt: skip

    def skip(self, turn: Turn) -> str | None:
        if not turn.targets:
            return "without_target"
        return None if any(target in self.items for target in turn.targets) else "unknown_target"

    def prompt(self, turn: Turn, teacher: Teacher) -> tuple[Sequence[ChatMessage], bool]:
        truth = [self.items[target].text() for target in turn.targets if target in self.items]

        def build(dialogue: Sequence[ChatMessage], room: int | None) -> QueryPrompt:
            return build_pseudo_query_prompt(
                dialogue, truth, template=self.template, domain=self.domain, max_history_tokens=room,
                measure=teacher.measure if room is not None else None,
            )  # fmt: skip

        made = build(turn.chat, room_beside(build((), None).messages, turn, teacher))
        return made.messages, bool(made.history.dropped or made.history.shortened)

    def read(self, turn: Turn, text: str) -> Reading:
        note = self.clean(text)
        leaked = self.leaks.find(note, turn) if self.leaks is not None else ()
        return Reading({self.field: note} if note else {}, leaked)

    def reminder(self, reading: Reading) -> str:
        if not reading.leaked:
            return f"Write the {self.field} now."
        return (
            f"Do not name {', '.join(reading.leaked)} or any other {self.domain.noun} "
            "that the conversation history does not name."
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
) -> TeacherReport:
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
    TeacherReport
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
    catalog = by_id(items)
    leaks = TitleLeaks(catalog) if filter_leaks else None
    task = _Note(
        "query", DEFAULT_PSEUDO_QUERY_TMPL, PSEUDO_QUERY_PROMPT_HASH, clean_query, catalog, domain, leaks
    )
    asked = Teacher(teacher, settings.for_answers_of(QUERY_TOKENS))
    return annotate(turns, asked, out, task, progress=progress)


def write_reasoning(
    turns: Sequence[Turn],
    items: Mapping[str, Item] | Iterable[Item],
    teacher: LLM | LocalLM | None,
    out: str | Path,
    *,
    settings: TeacherSettings = DEFAULT_SETTINGS,
    domain: Domain = MOVIES,
    filter_leaks: bool = True,
    progress: Progress | None = None,
) -> TeacherReport:
    """Let a teacher summarize the seeker's preferences in each turn.

    Parameters, resuming and errors are those of `write_pseudo_queries`; rows are ``{"id", "reasoning"}``.
    """
    catalog = by_id(items)
    leaks = TitleLeaks(catalog) if filter_leaks else None
    task = _Note(
        "reasoning", DEFAULT_REASONING_TMPL, REASONING_PROMPT_HASH, clean_reasoning, catalog, domain, leaks
    )
    asked = Teacher(teacher, settings.for_answers_of(REASONING_TOKENS))
    return annotate(turns, asked, out, task, progress=progress)


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


def read_reasoning(path: str | Path, *, turns: Sequence[Turn] | None = None) -> dict[str, str]:
    """Read reasoning, ``{"id", "reasoning"}`` a line, id of the turn to text.

    Raises
    ------
    InputError
        As `read_pseudo_queries`.
    """
    return read_notes(path, "reasoning", turns=turns)
