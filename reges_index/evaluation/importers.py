"""Public data sets and own data to turns: INSPIRED's TSV, ReDial's JSONL, UniCRS's JSONL, the neutral form.

Each original becomes dialogues of utterances that name items; one function makes turns of them. Every
entry that maps to no catalog item is counted, with examples. Rankings by CRSLab's and UniCRS's item numbers
become predictions in the same way.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote

from reges_index.catalog.item import Item
from reges_index.dialogue import Message, Turn, read_turns
from reges_index.errors import ConfigError, InputError
from reges_index.evaluation.predictions import MATCH_KINDS, Prediction, TitleMatcher
from reges_index.files import json_lines, read_json, read_text

Role: TypeAlias = Literal["user", "assistant"]
_EXAMPLES = 10
_REDIAL_MENTION = re.compile(r"@(\d+)")
_INSPIRED_COLUMNS = ("dialog_id", "speaker", "text", "movies")
_INSPIRED_ROLES: dict[str, Role] = {"SEEKER": "user", "RECOMMENDER": "assistant"}


@dataclass(frozen=True)
class Utterance:
    """What one side says at a stretch, and the ids or titles that it names, in their order."""

    role: Role
    text: str
    named: tuple[str, ...] = ()


@dataclass
class ImportReport:
    """What was mapped and what was not.

    Attributes
    ----------
    counts
        ``dialogues``, ``messages`` (consecutive ones of a side are one), ``turns``, ``targets``,
        ``entries`` (items named, by either side), and what led to no turn:
        ``recommender_messages_naming_nothing``, ``turns_without_history`` (an item is named before anybody
        spoke), ``turns_without_mapped_target`` (only with unmatched entries dropped),
        ``dialogues_without_messages``.
    matching
        How many entries were matched in which way (`predictions.MATCH_KINDS`).
    missing
        Entries that are no catalog item, with how often each was named.
    """

    counts: Counter[str] = field(default_factory=Counter)
    matching: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON data."""
        return {
            "counts": dict(self.counts),
            "matching": {kind: self.matching[kind] for kind in MATCH_KINDS},
            "unmatched": dict(self.missing.most_common(_EXAMPLES)),
            "unmatched_distinct": len(self.missing),
        }


Dialogues: TypeAlias = Iterator[tuple[str, list[Utterance]]]


def _merge(utterances: Sequence[Utterance]) -> list[Utterance]:
    merged: list[Utterance] = []
    for utterance in utterances:
        if merged and merged[-1].role == utterance.role:
            last = merged.pop()
            text = " ".join(part for part in (last.text, utterance.text) if part)
            utterance = Utterance(last.role, text, (*last.named, *utterance.named))
        merged.append(utterance)
    return merged


def read_inspired(path: Path) -> Dialogues:
    """Read INSPIRED's TSV (arXiv 2009.14306): a row an utterance, titles in the column ``movies``."""
    # Quotes are part of the text in this file (or written QUOTATION_MARK).
    lines = read_text(path).split("\n")
    reader = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    header = reader.fieldnames or ()
    absent = [name for name in _INSPIRED_COLUMNS if name not in header]
    if absent:
        raise InputError(f"{path}:1: no column {absent[0]!r}", hint=f"columns are {', '.join(header)}")
    dialogues: dict[str, list[Utterance]] = {}
    for row in reader:
        where = f"{path}:{reader.line_num}"
        if None in row or None in row.values():
            raise InputError(f"{where}: the header has {len(header)} cells, this line has not")
        role = _INSPIRED_ROLES.get(row["speaker"].strip().upper())
        if role is None:
            raise InputError(f"{where}: speaker {row['speaker']!r} is neither SEEKER nor RECOMMENDER")
        named = tuple(title.strip() for title in row["movies"].split(";") if title.strip())
        text = " ".join(row["text"].replace("QUOTATION_MARK", '"').split())
        dialogues.setdefault(row["dialog_id"], []).append(Utterance(role, text, named))
    yield from dialogues.items()


def read_redial(path: Path) -> Dialogues:
    """Read ReDial's JSONL (arXiv 1812.07617): ``@id`` in texts, titles in ``movieMentions``."""
    for number, row in json_lines(path):
        where = f"{path}:{number}"
        try:
            seeker = row["initiatorWorkerId"]
            titles = dict(row["movieMentions"] or {})  # an empty list where nothing was mentioned
            said = [(message["senderWorkerId"], str(message["text"])) for message in row["messages"]]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{where}: not a ReDial dialogue ({error!r})",
                hint="expected messages, movieMentions and initiatorWorkerId",
            ) from error
        utterances = []
        for sender, text in said:
            ids = [found for found in _REDIAL_MENTION.findall(text) if titles.get(found)]
            named = tuple(" ".join(str(titles[found]).split()) for found in ids)

            def title_of(match: re.Match[str], titles: dict[str, Any] = titles) -> str:
                return str(titles.get(match[1]) or match[0])

            plain = " ".join(unescape(_REDIAL_MENTION.sub(title_of, text)).split())
            utterances.append(Utterance("user" if sender == seeker else "assistant", plain, named))
        yield str(row.get("conversationId", number)), utterances


def read_unicrs(path: Path, *, id_prefix: str) -> Dialogues:
    """Read UniCRS's processed JSONL (arXiv 2206.09363): a line a message, ``rec`` its items.

    The file has no speakers: as in UniCRS, the first message is the recommender's and the sides alternate.
    It has no dialogue ids either: an empty context starts the next dialogue. ``rec`` holds entity numbers,
    films and others; ``id_prefix`` before the number is the catalog's id.
    """
    count = -1
    utterances: list[Utterance] = []
    for number, row in json_lines(path):
        try:
            context = [str(text) for text in row["context"]]
            said = str(row["resp"])
            named = tuple(f"{id_prefix}{entity}" for entity in row["rec"])
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{path}:{number}: not a line of UniCRS's processed data ({error!r})",
                hint="expected context, resp, rec and entity",
            ) from error
        if len(context) <= 1 or count < 0:
            if utterances:
                yield str(count), utterances
            count, utterances = count + 1, []
        role: Role = "assistant" if len(utterances) % 2 == 0 else "user"
        utterances.append(Utterance(role, " ".join(said.split()), named))
    if utterances:
        yield str(count), utterances


_READERS: dict[str, Callable[..., Dialogues]] = {
    "inspired": read_inspired,
    "redial": read_redial,
    "unicrs": read_unicrs,
}
FORMATS = (*_READERS, "neutral")


def named_titles(path: str | Path, format: str) -> list[Item]:
    """Return a bare catalog (titles, years) of what an INSPIRED or ReDial file names, where there is none.

    Ids are ``item-0``, ``item-1`` and so on, by first mention; titles that differ in their spelling are
    different items.

    Raises
    ------
    ConfigError
        If the format names items by number only.
    """
    if format not in ("inspired", "redial"):
        raise ConfigError(f"{format!r} does not name its items by title", hint="give --catalog")
    found: dict[str, Item] = {}
    for _, utterances in _READERS[format](Path(path)):
        for title in (title for utterance in utterances for title in utterance.named):
            if title not in found:
                year = re.search(r"\((\d{4})\)\s*$", title)
                name = title[: year.start()].strip() if year else title
                found[title] = Item(
                    id=f"item-{len(found)}", title=name or title, year=int(year[1]) if year else None
                )
    return list(found.values())


def import_turns(
    path: str | Path,
    format: str,
    items: Sequence[Item],
    *,
    name: str = "",
    id_prefix: str = "",
    unmatched: Literal["keep", "drop"] | None = None,
) -> tuple[list[Turn], ImportReport]:
    """Read a data set and make a turn of each recommender's message that names an item.

    Parameters
    ----------
    format
        ``inspired``, ``redial``, ``unicrs`` or ``neutral`` (turns as they are, entries mapped to ids).
    items
        The catalog; ids and titles are looked up in it (`predictions.TitleMatcher`).
    name
        Put before dialogue and turn ids; default the format.
    id_prefix
        For ``unicrs``: what the catalog puts before the entity's number.
    unmatched
        What happens to entries that are no catalog item: ``keep`` leaves them as targets (and mentions)
        that nobody can hit, so that they stay in denominators; ``drop`` leaves them out. None keeps them,
        but drops them for ``unicrs``, whose ``rec`` mixes films with other entities.

    Raises
    ------
    ConfigError
        For an unknown format.
    InputError
        Naming file and line, if the file is not of that format or holds no dialogue.
    """
    if format not in FORMATS:
        raise ConfigError(f"unknown format {format!r}", hint=f"formats are {', '.join(FORMATS)}")
    path = Path(path)
    matcher = TitleMatcher(items)
    report = ImportReport()
    keep = (unmatched or ("drop" if format == "unicrs" else "keep")) == "keep"

    def mapped(entries: Sequence[str]) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for entry in entries:
            match = matcher.match(entry)
            report.counts["entries"] += 1
            report.matching[match.kind] += 1
            if match.item is None:
                report.missing[entry] += 1
            if match.item is not None or keep:
                found[entry if match.item is None else match.item] = None
        return tuple(found)

    turns: list[Turn] = []
    if format == "neutral":
        for turn in read_turns(path):
            named = None if turn.mentioned is None else mapped(turn.mentioned)
            turns.append(turn.model_copy(update={"targets": mapped(turn.targets), "mentioned": named}))
        report.counts["dialogues"] = len({turn.dialog_id or turn.id for turn in turns})
    else:
        options = {"id_prefix": id_prefix} if format == "unicrs" else {}
        for dialogue, utterances in _READERS[format](path, **options):
            turns += _turns_of(f"{name or format}-{dialogue}", _merge(utterances), mapped, report.counts)
    if not report.counts["dialogues"]:
        raise InputError(f"{path}: no dialogue in it", hint=f"is it in the format {format!r}?")
    report.counts["turns"] = len(turns)
    report.counts["targets"] = sum(len(turn.targets) for turn in turns)
    return turns, report


def _turns_of(
    dialogue: str,
    utterances: Sequence[Utterance],
    mapped: Callable[[Sequence[str]], tuple[str, ...]],
    counts: Counter[str],
) -> Iterator[Turn]:
    counts["dialogues"] += 1
    counts["messages"] += len(utterances)
    counts["dialogues_without_messages"] += not utterances
    messages: list[Message] = []
    mentioned: dict[str, None] = {}
    for place, utterance in enumerate(utterances):
        items = mapped(utterance.named)
        if utterance.role == "assistant":
            if not utterance.named:
                counts["recommender_messages_naming_nothing"] += 1
            elif not items:
                counts["turns_without_mapped_target"] += 1
            elif not any(message.content for message in messages):
                counts["turns_without_history"] += 1
            else:
                yield Turn(
                    id=f"{dialogue}-{place}",
                    dialog_id=dialogue,
                    messages=tuple(messages),
                    targets=items,
                    mentioned=tuple(mentioned),
                )
        messages.append(Message(role=utterance.role, content=utterance.text))
        # An item that is named again becomes the most recent one.
        for item in items:
            mentioned.pop(item, None)
            mentioned[item] = None


# -- rankings by number -----------------------------------------------------------------------------------

_FILM = re.compile(r"^(?P<title>.+?) \((?:(?P<year>\d{4}) )?[^()]*\)$")


def convert_rankings(
    path: str | Path,
    turns: Sequence[Turn],
    items: Sequence[Item],
    *,
    entities: str | Path,
    item_numbers: str | Path | None = None,
    id_prefix: str = "",
) -> tuple[list[Prediction], ImportReport]:
    """Make predictions of rankings that CRSLab (arXiv 2101.00939) or UniCRS gives as numbers.

    Parameters
    ----------
    path
        JSON Lines: the ranking of one turn a line, ``[NUMBER, ...]`` or ``{"id": TURN, "ranking": [...]}``,
        best first. Without ids the lines are taken to be in the order of ``turns``.
    entities
        ``entity2id.json`` of either: DBpedia's names to numbers.
    item_numbers
        ``movie_ids.json`` or ``item_ids.json``, where the ranking holds places in that list, as CRSLab's do;
        None where it holds the entities' own numbers, as UniCRS's do.
    id_prefix
        What the catalog puts before an entity's number; where no item has that id, DBpedia's name is looked
        up as a title with its year.

    Returns
    -------
    The predictions, and how many entries were matched in which way. One that is no catalog item keeps its
    place as ``entity:NUMBER``.

    Raises
    ------
    InputError
        Naming file and line: no list of numbers, a number that is not in the lists, or as many lines without
        ids as there are turns not.
    """
    names = {number: name for name, number in read_json(entities).items()}
    listed = _numbers(json.loads(read_text(item_numbers)), item_numbers) if item_numbers else None
    matcher, report = TitleMatcher(items), ImportReport()
    known: dict[int, str] = {}

    def entry(number: int, where: str) -> str:
        if listed is not None:
            if not 0 <= number < len(listed):
                raise InputError(
                    f"{where}: {number} is no place in {item_numbers}", hint="is it of this data?"
                )
            number = listed[number]
        if number not in known:
            title = _title_of(str(names[number])) if number in names else ""
            by_id = matcher.match(f"{id_prefix}{number}")
            match = by_id if by_id.kind == "id" else matcher.match(title)
            if match.item is None:
                report.missing[title or f"entity:{number}"] += 1
            report.matching[match.kind] += 1
            known[number] = match.item or f"entity:{number}"
        return known[number]

    found: list[Prediction] = []
    without = 0
    for line_number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{line_number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: not valid JSON ({error.msg})") from error
        turn = row.get("id") if isinstance(row, dict) else None
        ranking = _numbers(row.get("ranking") if isinstance(row, dict) else row, where)
        without += turn is None
        name = turn or (turns[len(found)].id if len(found) < len(turns) else "too many")
        found.append(Prediction(id=name, ranking=tuple(entry(number, where) for number in ranking)))
    if without and len(found) != len(turns):
        raise InputError(
            f"{path}: {len(found)} rankings without ids for {len(turns)} turns",
            hint="give the turns that they were made from, in the same order, or an id in each line",
        )
    report.counts.update(rankings=len(found), entries=sum(len(made.ranking) for made in found))
    return found, report


def _numbers(value: Any, where: object) -> list[int]:
    if not isinstance(value, list) or not all(isinstance(v, int) and not isinstance(v, bool) for v in value):
        raise InputError(f"{where}: expected a list of item numbers", hint="[12, 7, ...], best first")
    return value


def _title_of(name: str) -> str:
    """Return the title and year in DBpedia's name of a film, such as ``.../resource/Heat_(1995_film)``."""
    text = unquote(name.strip("<>").rpartition("/resource/")[2] or name).replace("_", " ")
    film = _FILM.match(text)
    if film is None:
        return text
    return f"{film['title']} ({film['year']})" if film["year"] else film["title"]
