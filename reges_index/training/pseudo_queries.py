"""What a teacher writes with the truth in sight: pseudo-queries (section 2.3), and reasoning (section 3.7.2).

LLM_QR learns to write the queries. For the chain-of-thought variant of LLM_G the paper prompts a model to
"summarize user preferences step by step" and puts the result in front of the item in each training example.
It is written like the pseudo-queries: the truth in sight, so that the summary stresses what leads to it, and
without its title, which at inference has to come from the candidates.

LLM_QR never sees the truth. A pseudo-query that names it where nobody has named it teaches LLM_QR to invent
titles, so such queries are no training data (section 2.3 wants what *in the history* justifies the item).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import PromptTemplate

from reges_index.catalog import Item
from reges_index.dialogue import TitleIndex, Turn, one_line
from reges_index.dialogue.render import HISTORY_FORMAT
from reges_index.dialogue.wording import MOVIES, Domain, template_hash
from reges_index.errors import InputError
from reges_index.models.local_lm import LocalLM
from reges_index.query_expert.cleaning import clean_query
from reges_index.query_expert.prompt import (
    DEFAULT_PSEUDO_QUERY_TMPL,
    QueryPrompt,
    build_query_prompt,
)
from reges_index.training.annotate import (
    Progress,
    Reading,
    Task,
    TeacherReport,
    annotate,
    room_beside,
    rows_of,
)
from reges_index.training.teacher import Teacher, TeacherSettings

NoteKind: TypeAlias = Literal["query", "reasoning"]
"""What a note is, and the field of its row."""

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

_SUBTITLE = re.compile(r":\s|\s[-–—]\s")
_LABEL = re.compile(r"^\W*(?:summary|reasoning|preferences)\W*:\s*", re.IGNORECASE)


def clean_reasoning(text: str) -> str:
    """Return the reasoning on one line: in the answer that LLM_G learns, the next line is the item."""
    return _LABEL.sub("", one_line(text)).strip()


class _Kind(NamedTuple):
    template: PromptTemplate
    clean: Callable[[str], str]
    answer_tokens: int


_KINDS: Mapping[NoteKind, _Kind] = {
    "query": _Kind(DEFAULT_PSEUDO_QUERY_TMPL, clean_query, 128),
    # Two or three sentences, of which none may be cut.
    "reasoning": _Kind(DEFAULT_REASONING_TMPL, clean_reasoning, 256),
}


def note_prompt_hash(kind: NoteKind) -> str:
    """Return the hash of the prompt that asks for it."""
    name = {"query": "pseudo-query", "reasoning": "reasoning"}[kind]
    return template_hash(name, _KINDS[kind].template.template, HISTORY_FORMAT)


class TitleLeaks:
    """Finds titles of a turn's targets in a text, unless the dialogue holds them.

    Titles are found as in messages (`TitleIndex`); the part before a colon counts as a title of its own,
    since it gives as much away ("Star Wars" for "Star Wars: A New Hope").

    Parameters
    ----------
    items
        The catalog.
    """

    def __init__(self, items: Mapping[str, Item]) -> None:
        self._items = items
        self._index = TitleIndex.of(items.values())

    def find(self, text: str, turn: Turn) -> tuple[str, ...]:
        """Return the titles that a text about a turn gives away, in the order of the turn's targets."""
        mentioned = turn.mentioned or ()
        targets = [target for target in turn.targets if target in self._items and target not in mentioned]
        # Seekers write titles in lower case. Where annotators said what was mentioned, a plain word is no
        # mention; where nobody did, it gets the benefit of the doubt.
        strict = turn.mentioned is not None
        leaked: dict[str, None] = {}
        for target in targets:
            title = self._items[target].title
            series = _SUBTITLE.split(title, maxsplit=1)[0]
            named = {self._index.ids[i] for mention in self._index.find(text) for i in mention.items}
            for form in dict.fromkeys((title, series)):
                # Alone, so that what is said of a series or a sequel counts as well.
                alone = TitleIndex([form])
                given = target in named if form == title else bool(alone.find(text))
                if given and not alone.link(turn.chat, strict=strict):
                    leaked[form] = None
        return tuple(leaked)


@dataclass
class _Note(Task):
    """A text about each turn that has a target in the catalog, written with the true items in sight."""

    kind: NoteKind
    items: Mapping[str, Item]
    domain: Domain
    leaks: TitleLeaks | None

    reads_targets = True

    def __post_init__(self) -> None:
        self.made_by = {
            "task": self.kind, "prompt": note_prompt_hash(self.kind), "item": self.domain.noun,
            "filter_leaks": self.leaks is not None,
        }  # fmt: skip

    def why_not(self, turn: Turn) -> str | None:
        return target_missing(turn, self.items)

    def prompt(self, turn: Turn, teacher: Teacher) -> tuple[Sequence[ChatMessage], bool]:
        truth = [self.items[target].text() for target in turn.targets if target in self.items]

        def build(dialogue: Sequence[ChatMessage], room: int | None) -> QueryPrompt:
            return build_query_prompt(
                dialogue, truth=truth, template=_KINDS[self.kind].template, domain=self.domain,
                max_history_tokens=room, measure=teacher.measure if room is not None else None,
            )  # fmt: skip

        made = build(turn.chat, room_beside(build((), None).messages, turn, teacher))
        return made.messages, bool(made.history.dropped or made.history.shortened)

    def read(self, turn: Turn, text: str) -> Reading:
        note = _KINDS[self.kind].clean(text)
        leaked = self.leaks.find(note, turn) if self.leaks is not None else ()
        return Reading({self.kind: note} if note else {}, leaked)

    def reminder(self, reading: Reading) -> str:
        if not reading.leaked:
            return f"Write the {self.kind} now."
        return (
            f"Do not name {', '.join(reading.leaked)} or any other {self.domain.noun} "
            "that the conversation history does not name."
        )


def target_missing(turn: Turn, items: Mapping[str, Item]) -> str | None:
    """Return why a turn has no true item in the catalog; None where it has one."""
    if not turn.targets:
        return "without target"
    return None if any(target in items for target in turn.targets) else "no target in the catalog"


def write_notes(
    turns: Sequence[Turn],
    items: Mapping[str, Item],
    teacher: LLM | LocalLM | str | None,
    out: str | Path,
    *,
    kind: NoteKind = "query",
    settings: TeacherSettings | None = None,
    domain: Domain = MOVIES,
    filter_leaks: bool = True,
    progress: Progress | None = None,
) -> TeacherReport:
    """Let a teacher write each turn's search query, or its reasoning, with the true items in sight.

    One note a turn: a turn with several targets shows them all (the paper's "Ground truth items").

    Parameters
    ----------
    turns
        Those with a target in the catalog are asked for; the others are listed in the report.
    items
        The catalog by id.
    teacher
        As in `Teacher`.
    out
        JSONL, ``{"id", kind}`` a line, synced line by line. A file that an earlier run of the same teacher
        and prompt began is continued.
    kind
        "query" (section 2.3), or "reasoning": a summary of the seeker's preferences (section 3.7.2).
    settings
        Concurrency, retries, prices.
    domain
        What an item is called.
    filter_leaks
        Ask again, then leave out, when a note names a target that the dialogue does not name (`TitleLeaks`).
    progress
        Called with the number of turns done and to do.

    Returns
    -------
    TeacherReport
        What was written, left out and spent.

    Raises
    ------
    InputError, ModelError, StorageError
        As `annotate`.
    """
    task = _Note(kind, items, domain, TitleLeaks(items) if filter_leaks else None)
    return annotate(turns, Teacher(teacher, settings, _KINDS[kind].answer_tokens), out, task, progress)


def read_notes(path: str | Path, kind: NoteKind, *, turns: Iterable[Turn] | None = None) -> dict[str, str]:
    """Read pseudo-queries ("query") or "reasoning", whoever wrote them: ``{"id", kind}`` a line.

    Turns may lack a note, but one for none of ``turns`` is an error. Further fields are passed over.

    Raises
    ------
    InputError
        Naming file and line: malformed JSON, no id, an id twice or of no turn, an empty note; or when the
        file holds no note at all.
    """
    known = {turn.id for turn in turns} if turns is not None else None
    notes: dict[str, str] = {}
    for where, key, row in rows_of(path):
        note = row.get(kind)
        if not isinstance(note, str) or not note.strip():
            raise InputError(
                f"{where}: {kind!r} of {key!r} is {'empty' if kind in row else 'missing'}",
                hint=f"each line is a JSON object with 'id' and {kind!r}; remove lines without one",
            )
        if known is not None and key not in known:
            raise InputError(
                f"{where}: {key!r} is none of the {len(known)} turns",
                hint="is this file for other conversations?",
            )
        notes[key] = note
    if not notes:
        raise InputError(f"{path}: nothing in it", hint=f"one JSON object with 'id' and {kind!r} a line")
    return notes
