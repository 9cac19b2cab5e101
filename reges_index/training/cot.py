"""Reasoning for the chain-of-thought variant of LLM_G (section 3.7.2).

The paper prompts a model to "summarize user preferences step by step" and puts the result in front of the
item in each training example. It is written like the pseudo-queries: the truth in sight, so that the summary
stresses what leads to it, and without its title, which at inference has to come from the candidates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import PromptTemplate

from reges_index.catalog import Item
from reges_index.dialogue import TextMeasure, Turn, one_line
from reges_index.dialogue.render import HISTORY_FORMAT
from reges_index.dialogue.wording import MOVIES, Domain, template_hash
from reges_index.models.local_lm import LocalLM
from reges_index.query_expert.prompt import QueryPrompt, build_pseudo_query_prompt
from reges_index.training.annotate import NoteTask, Progress, TeacherReport, annotate, read_notes
from reges_index.training.teacher import Teacher, TeacherSettings

__all__ = [
    "DEFAULT_REASONING_TMPL",
    "REASONING_PROMPT_HASH",
    "REASONING_TOKENS",
    "read_reasoning",
    "write_reasoning",
]

# The paper describes this prompt without printing it; the wording is ours.
DEFAULT_REASONING_TMPL = PromptTemplate(
    "Think step by step: summarize in two or three short sentences the preferences that the seeker reveals "
    "in the conversation history, particularly those that the ground truth {item_noun} meets, paying "
    "attention to actor, producer, genre, topics, etc. Do not name the ground truth {item_noun}. Only output "
    "the summary.\n"
    "\n"
    "Conversation history: {conversation_history}\n"
    "\n"
    "Ground truth items: {ground_truth_items}"
)

DEFAULT_SETTINGS = TeacherSettings()

REASONING_TOKENS = 256
"""Most tokens of an answer by default: two or three sentences, of which none may be cut."""

_LABEL = re.compile(r"^\W*(?:summary|reasoning|preferences)\W*:\s*", re.IGNORECASE)


def clean_reasoning(text: str) -> str:
    """Return the reasoning on one line: in the answer that LLM_G learns, the next line is the item."""
    return _LABEL.sub("", one_line(text)).strip()


def _build(
    dialogue: Sequence[ChatMessage],
    truth: Sequence[str],
    *,
    domain: Domain,
    max_history_tokens: int | None,
    measure: TextMeasure | None,
) -> QueryPrompt:
    return build_pseudo_query_prompt(
        dialogue, truth, template=DEFAULT_REASONING_TMPL, domain=domain,
        max_history_tokens=max_history_tokens, measure=measure,
    )  # fmt: skip


REASONING_PROMPT_HASH = template_hash("reasoning", DEFAULT_REASONING_TMPL.template, HISTORY_FORMAT)

_TASK = NoteTask(
    field="reasoning",
    build=_build,
    prompt_hash=REASONING_PROMPT_HASH,
    clean=clean_reasoning,
)


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

    Parameters, resuming and errors are those of
    `reges_index.training.pseudo_queries.write_pseudo_queries`; rows are ``{"id", "reasoning"}``.
    """
    return annotate(
        turns, items, Teacher(teacher, settings.for_answers_of(REASONING_TOKENS)), out, _TASK,
        domain=domain, filter_leaks=filter_leaks, progress=progress,
    )  # fmt: skip


def read_reasoning(path: str | Path, *, turns: Sequence[Turn] | None = None) -> dict[str, str]:
    """Read reasoning, ``{"id", "reasoning"}`` a line, id of the turn to text.

    Raises
    ------
    InputError
        As `reges_index.training.pseudo_queries.read_pseudo_queries`.
    """
    return read_notes(path, "reasoning", turns=turns)
