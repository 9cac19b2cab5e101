"""Distillation (beyond the paper, after its section 2.3): a large LLM's rankings for every dialogue.

A shop's unlabelled chats, its catalog and an LLM behind an API are enough: no recommendation has to be known
to be right. The teacher either ranks what the retriever finds, asked with the prompt of
``ReGeSRerank(mode="rank")``, or names items freely, which are then linked to the catalog. Encoder, query
expert and item expert learn from the rankings; so they may from a predictions file of any larger pipeline.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import PromptTemplate

from reges_index.catalog import Item, ItemCatalog
from reges_index.dialogue import Turn, newest_text, render_history
from reges_index.dialogue.render import HISTORY_FORMAT
from reges_index.dialogue.titles import TitleIndex
from reges_index.dialogue.wording import MOVIES, Domain, template_hash
from reges_index.errors import ConfigError, InputError
from reges_index.item_expert.answers import read_ranking
from reges_index.item_expert.prompt import (
    DEFAULT_RANK_TMPL,
    PromptBudget,
    build_selection_prompt,
    selection_prompt_hash,
)
from reges_index.models.local_lm import LocalLM
from reges_index.models.text import read_text
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

logger = logging.getLogger(__name__)

RankingSource: TypeAlias = Literal["retrieved", "free"]
"""What the teacher ranks: what the retriever finds, or whatever comes to its mind."""

FREE_TMPL = PromptTemplate(
    "According to the conversation history between seeker and recommender, name the {count} {item_plural} "
    "that you would recommend to the seeker at this point, the top recommendation first. Leave out "
    "{item_plural} that the conversation history names. Only output the names, one a line, each with its "
    "year in brackets where it has one. Do not generate explanation or anything else.\n"
    "\n"
    "The corresponding conversation history: {conversation_history}"
)

_BULLET = re.compile(r"^\s*(?:[-*•]|\(?\d{1,3}[.):]\)?)\s+")


def write_rankings(
    turns: Sequence[Turn],
    catalog: ItemCatalog,
    teacher: LLM | LocalLM | str | None,
    out: str | Path,
    *,
    source: RankingSource = "retrieved",
    candidates: int = 20,
    count: int = 8,
    settings: TeacherSettings | None = None,
    domain: Domain = MOVIES,
    progress: Progress | None = None,
) -> TeacherReport:
    """Let a teacher rank items for each turn, without knowing what was recommended.

    Items that the dialogue has named are left out, whether the turn lists them (``mentioned``) or not.

    Parameters
    ----------
    turns
        Dialogues; their targets, where they have any, are not looked at.
    catalog
        What may be ranked, and the retriever of "retrieved".
    teacher, settings, domain, progress
        As for `write_notes`.
    out
        JSONL, ``{"id", "ranking": [item ids], "titles": [names]}`` a line, best first. With "free" the titles
        are what the teacher named and the ranking what of it is in the catalog. A file that an earlier run of
        the same teacher and settings began is continued.
    source
        "retrieved": the teacher ranks the first ``candidates`` that the catalog's encoder finds for the
        dialogue. "free": it names items, which are linked to the catalog by title and year; for well-known
        items, of which a large LLM knows more than their abstracts say.
    candidates, count
        Items in a prompt, and in a ranking at most.

    Raises
    ------
    ConfigError
        If ``candidates`` or ``count`` cannot be used.
    InputError, ModelError, StorageError
        As `annotate`.
    """
    if count < 1 or candidates < 2:
        raise ConfigError(
            f"count={count}, candidates={candidates}: there is nothing to rank",
            hint="rank at least 1 of at least 2 candidates",
        )
    task = _Ranking(catalog, source, candidates, count, domain)
    # Eight names with their years.
    return annotate(turns, Teacher(teacher, settings, answer_tokens=256), out, task, progress)


class _Ranking(Task):
    """Asks for rankings: see `write_rankings`."""

    def __init__(
        self, catalog: ItemCatalog, source: RankingSource, candidates: int, count: int, domain: Domain
    ) -> None:
        self._items = {item.id: item for item in catalog.items()}
        self._titles = TitleIndex.of(self._items.values())
        self._catalog = catalog
        self._source = source
        self._candidates = candidates
        self._count = count
        self._domain = domain
        self._found: dict[str, list[Item]] = {}
        self.made_by = {
            "task": "rankings", "source": source, "count": count, "item": domain.noun,
            "catalog": catalog.fingerprint(),
            "prompt": selection_prompt_hash(DEFAULT_RANK_TMPL)
            if source == "retrieved"
            else template_hash("free", FREE_TMPL.template, HISTORY_FORMAT),
            **({"candidates": candidates} if source == "retrieved" else {}),
        }  # fmt: skip

    def _named(self, turn: Turn) -> set[str]:
        return {*(turn.mentioned or ()), *self._titles.named_ids(turn.chat)}

    def why_not(self, turn: Turn) -> str | None:
        """Retrieve what is to be ranked."""
        if self._source == "free":
            return None
        known = self._named(turn)
        # The newest message first: encoders cut long texts at the end.
        text = newest_text(turn.chat[::-1], len(turn.chat))
        depth = min(len(self._items), self._candidates + len(known))
        [hits] = self._catalog.retrieve_batch([text], top_k=depth)
        left = [self._items[item_id] for item_id, _ in hits if item_id not in known]
        self._found[turn.id] = left[: self._candidates]
        return "nothing found to rank" if len(left) < 2 else None

    def prompt(self, turn: Turn, teacher: Teacher) -> tuple[Sequence[ChatMessage], bool]:
        if self._source == "retrieved":
            budget = PromptBudget(total=teacher.max_prompt_tokens - 64)
            items = self._found[turn.id]
            made = build_selection_prompt(
                turn.chat, items, measure=teacher.measure, budget=budget, template=DEFAULT_RANK_TMPL,
                domain=self._domain, count=min(self._count, len(items)),
            )  # fmt: skip
            return made.messages, bool(made.history.dropped or made.history.shortened)
        words: dict[str, Any] = {"count": str(self._count), "item_plural": self._domain.plural}

        def message(history: str) -> ChatMessage:
            text = FREE_TMPL.format(conversation_history=history, **words)
            return ChatMessage(role=MessageRole.USER, content=text)

        room = room_beside([message("")], turn, teacher)
        history = render_history(turn.chat, budget=room, measure=teacher.measure)
        return [message(f"\n{history.text}")], bool(history.dropped or history.shortened)

    def read(self, turn: Turn, text: str) -> Reading:
        if self._source == "retrieved":
            items = self._found[turn.id]
            # Numbers are what was asked for; names are taken too.
            read = read_ranking(text, [item.title for item in items])
            ranked = [items[place] for place in read.ranked[: self._count]]
            titles = [_name(item) for item in ranked]
        else:
            titles = [name for line in read_text(text).text.splitlines() if (name := _listed(line))]
            titles = titles[: self._count]
            known = self._named(turn)
            linked = dict.fromkeys(_only(self._titles, name) for name in titles)
            ranked = [self._items[item_id] for item_id in linked if item_id and item_id not in known]
        if not ranked:
            return Reading({})
        return Reading({"ranking": [item.id for item in ranked], "titles": titles})

    def reminder(self, reading: Reading) -> str:  # noqa: ARG002
        what = "numbers" if self._source == "retrieved" else "names, one a line"
        return f"Only output the {what}."


def _name(item: Item) -> str:
    return f"{item.title} ({item.year})" if item.year is not None else item.title


def _listed(line: str) -> str:
    """Return the name on a line of a list; "" where the line is prose."""
    name = _BULLET.sub("", line).strip().strip("*_\"'“”`").strip()
    return "" if len(name) > 120 or name.endswith((":", "?", "!")) else name


def read_rankings(
    path: str | Path, *, turns: Iterable[Turn] | None = None, items: Mapping[str, Item] | None = None
) -> dict[str, list[str]]:
    """Read rankings, whoever made them: a teacher, mined negatives, or a pipeline's predictions.

    Empty rankings, items that the catalog does not hold and turns that are not asked for are passed over and
    said in the log: a teacher's list is worth having where it is not whole.

    Parameters
    ----------
    turns
        Where given, only rankings of these.
    items
        The catalog by id; titles in a ranking are linked to it and unknown entries left out.

    Returns
    -------
    Id of the turn to item ids, best first, none of them twice.

    Raises
    ------
    InputError
        Naming file and line: malformed JSON, no id, an id twice, a ranking that is no list; or when nothing
        in the file belongs to these turns, or next to nothing to this catalog.
    """
    wanted = {turn.id for turn in turns} if turns is not None else None
    titles = TitleIndex.of(items.values()) if items is not None else None
    rankings: dict[str, list[str]] = {}
    entries = strays = empty = elsewhere = 0
    for where, key, row in rows_of(path):
        ranking = row.get("ranking")
        if not isinstance(ranking, list):
            raise InputError(
                f"{where}: {key!r} has no list 'ranking'",
                hint='a line is {"id": TURN, "ranking": [ITEM, ...]}',
            )
        if wanted is not None and key not in wanted:
            elsewhere += 1
            continue
        ids = [str(entry).strip() for entry in ranking]
        if items is not None and titles is not None:
            linked = [entry if entry in items else _only(titles, entry) for entry in ids]
            entries, strays = entries + len(ids), strays + linked.count("")
            ids = [item_id for item_id in linked if item_id]
        empty += not ids
        if ids:
            rankings[key] = list(dict.fromkeys(ids))
    if not rankings:
        what = "is for any of these turns" if elsewhere else "names an item"
        raise InputError(f"{path}: no ranking {what}", hint="is this file for other conversations?")
    if 2 * strays > entries:
        raise InputError(
            f"{path}: {strays} of {entries} entries are not in the catalog",
            hint="rank with the catalog that you train with",
        )
    if strays or empty or elsewhere:
        logger.warning(
            "%s: %d entries not in the catalog, %d empty rankings and %d of other turns are passed over",
            path, strays, empty, elsewhere,
        )  # fmt: skip
    return rankings


def _only(titles: TitleIndex, entry: str) -> str:
    """Return the id of the one item of that title; "" where nobody knows which of several is meant."""
    found = titles.match(entry)
    return titles.ids[found[0]] if len(found) == 1 else ""
