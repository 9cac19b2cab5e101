"""Predictions as `reges predict` writes them, made by any system, and what their entries stand for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, field_validator

from reges_index.catalog.item import Item
from reges_index.dialogue.messages import Id, as_id
from reges_index.dialogue.titles import TitleIndex
from reges_index.errors import InputError
from reges_index.evaluation.data import EvaluationData
from reges_index.files import first_problem, json_lines, read_json, sha256_of

NOTHING = ""
"""Stands for a recommendation when a system says that it has none (``"recommendation": null``)."""

_EXAMPLES = 5


MatchKind: TypeAlias = Literal["id", "title", "ambiguous", "unmatched"]
MATCH_KINDS: tuple[MatchKind, ...] = ("id", "title", "ambiguous", "unmatched")


class Match(NamedTuple):
    """What an entry of a ranking stands for: an item's id, or none where it is unmatched.

    Kinds are ``id``; ``title`` (with or without its year, however it is written); ``ambiguous`` (several
    items have it: the first of the catalog is taken, without a look at the targets); ``unmatched``.
    """

    item: str | None
    kind: MatchKind


class TitleMatcher:
    """Looks up ids and titles in a catalog; among several items that fit, the earliest is taken."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self._ids = {item.id for item in items}

    @cached_property
    def _titles(self) -> TitleIndex:  # ids alone need none, and it takes seconds for a large catalog
        return TitleIndex.of(self._items)

    def match(self, entry: str) -> Match:
        """Return the item that ``entry``, an id or a title, stands for."""
        if (found_id := str(as_id(entry))) in self._ids:
            return Match(found_id, "id")
        found = self._titles.match(entry) if entry.strip() else ()
        if not found:
            return Match(None, "unmatched")
        exact = [place for place in found if self._items[place].title == entry.strip()]
        found = tuple(exact) or found
        return Match(self._items[found[0]].id, "title" if len(found) == 1 else "ambiguous")


class Prediction(BaseModel):
    """What one system says for one turn. Only ``id`` and ``ranking`` are required.

    Attributes
    ----------
    id
        Of the turn.
    ranking
        Item ids or titles, best first.
    query
        What was searched with.
    probabilities
        For the first items of the ranking, in its order; null where the system gives none, never NaN or
        outside [0, 1].
    recommendation
        The item that was recommended (id or title, or an object with ``id``); the first of the ranking
        where the field is absent. A null says that nothing was recommended, which is a miss.
    answer
        Free text of a system that generates; what is in it decides the hallucination ratio.
    hallucinated
        Whether the answer named no catalog item, when the system knows that itself.
    candidates
        How many of the ranking's first items the item expert saw; None when unknown.
    timings, tokens
        Seconds and token counts by stage, finite.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    id: Id = Field(min_length=1)
    ranking: tuple[str, ...]
    query: str | None = None
    probabilities: tuple[float | None, ...] | None = None
    recommendation: str | None = None
    answer: str | None = None
    hallucinated: bool | None = None
    candidates: int | None = Field(default=None, ge=0)
    timings: dict[str, FiniteFloat] = Field(default_factory=dict)
    tokens: dict[str, FiniteFloat] = Field(default_factory=dict)

    @property
    def seen(self) -> int | None:
        """How many items the item expert saw: ``candidates``, else as many as have probabilities."""
        return len(self.probabilities) if self.candidates is None and self.probabilities else self.candidates

    @field_validator("ranking", mode="before")
    @classmethod
    def _ids_as_text(cls, value: Any) -> Any:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ValueError("expected a list of item ids or titles, best first")
        return [as_id(entry) for entry in value]  # CRSLab and UniCRS number their entities

    @field_validator("recommendation", mode="before")
    @classmethod
    def _recommended_id(cls, value: Any) -> Any:
        return as_id(value.get("id") if isinstance(value, Mapping) else value)

    @field_validator("probabilities")
    @classmethod
    def _are_probabilities(cls, value: tuple[float | None, ...] | None) -> tuple[float | None, ...] | None:
        for place, p in enumerate(value or ()):
            if p is None:
                continue
            if math.isnan(p):
                raise ValueError(f"entry {place} is NaN; a ranking sorted by NaN has no order")
            if not -1e-6 <= p <= 1 + 1e-6:
                raise ValueError(f"entry {place} is {p}, outside 0 to 1")
        return value


def read_predictions(path: str | Path) -> list[Prediction]:
    """Read a predictions file (JSON Lines).

    Raises
    ------
    InputError
        Naming file and line: malformed JSON, a missing field, an id predicted twice, NaN anywhere in a line;
        or naming the file when there is no prediction in it.
    """
    path = Path(path)
    predictions: list[Prediction] = []
    lines: dict[str, int] = {}
    for number, row in json_lines(path):
        try:
            prediction = Prediction.model_validate(row)
        except ValidationError as error:
            place, reason, _ = first_problem(error, Prediction)
            raise InputError(
                f"{path}:{number}: {place}: {reason}",
                hint='a line is {"id": TURN, "ranking": [ITEM, ...]}; docs/evaluation.md lists the rest',
            ) from error
        if prediction.id in lines:
            raise InputError(
                f"{path}:{number}: turn {prediction.id!r} was predicted already, "
                f"on line {lines[prediction.id]}",
                hint="keep one prediction for each turn",
            )
        lines[prediction.id] = number
        predictions.append(prediction)
    if not predictions:
        raise InputError(
            f"{path}: no prediction in it", hint="one JSON object with 'id' and 'ranking' a line"
        )
    return predictions


@dataclass(frozen=True)
class AlignedPredictions:
    """One system's predictions brought into the order of T turns and into catalog ids.

    Attributes
    ----------
    name
        Of the system, as it stands in the tables.
    rankings
        T rankings without doubles; an entry that is no catalog item keeps its place.
    recommended
        T recommended items, None where the ranking's first is meant, `NOTHING` where there is none.
    predictions
        T predictions as they were read, None where a turn is missing.
    hallucinated
        T times whether the answer names no catalog item; None where nobody can tell.
    candidates
        T times `Prediction.seen`.
    counts
        What was wrong, by name; see `align`.
    matching
        How many ranking entries were matched in which way (`MATCH_KINDS`).
    examples
        A few ids or titles for each count that is not 0.
    source
        Path and SHA-256 of the file if it came from one, and the settings that ``reges predict`` keeps
        beside it (``<file>.run.json``).
    """

    name: str
    rankings: tuple[tuple[str, ...], ...]
    recommended: tuple[str | None, ...]
    predictions: tuple[Prediction | None, ...]
    hallucinated: tuple[bool | None, ...]
    candidates: tuple[int | None, ...]
    counts: dict[str, int]
    matching: dict[str, int]
    examples: dict[str, list[str]]
    source: dict[str, Any] = field(default_factory=dict)


_WRONG = (
    *("unknown_turns", "missing_turns", "empty_rankings"),
    *("doubles_dropped", "outside_catalog", "ambiguous_titles"),
)


def align(
    name: str,
    predictions: Iterable[Prediction],
    data: EvaluationData,
    *,
    matcher: TitleMatcher | None = None,
    source: dict[str, Any] | None = None,
) -> AlignedPredictions:
    """Bring predictions into the order of the turns and into catalog ids, counting what does not fit.

    Counts: ``unknown_turns`` (predicted, not in the data, ignored), ``missing_turns`` (not predicted, scored
    as misses), ``empty_rankings``, ``doubles_dropped`` (an item listed again further down),
    ``outside_catalog`` (entries that are no id and no title of the catalog; they keep their place and are
    misses), ``ambiguous_titles``.

    Parameters
    ----------
    matcher
        Of the data's catalog, to share between systems.

    Raises
    ------
    InputError
        If not one of the predicted turns is in the data.
    """
    matcher = matcher or TitleMatcher(data.items)
    by_id = {prediction.id: prediction for prediction in predictions}
    wrong: dict[str, list[str]] = {what: [] for what in _WRONG}
    known = {turn.id for turn in data.turns}
    wrong["unknown_turns"] = [turn for turn in by_id if turn not in known]
    if len(wrong["unknown_turns"]) == len(by_id):
        raise InputError(
            f"{name}: none of its {len(by_id)} predictions is for a turn of these conversations "
            f"(first: {next(iter(by_id), 'none')!r}, expected such as {data.turns[0].id!r})",
            hint="predict on the same file that is given as --conversations",
        )
    kinds: Counter[str] = Counter()
    ordered = tuple(by_id.get(turn.id) for turn in data.turns)
    rankings = []
    for turn, prediction in zip(data.turns, ordered, strict=True):
        ranking: dict[str, None] = {}
        for entry in prediction.ranking if prediction is not None else ():
            match = matcher.match(entry)
            kinds[match.kind] += 1
            item = entry if match.item is None else match.item
            wrong["outside_catalog"] += [entry] * (match.item is None)
            wrong["ambiguous_titles"] += [entry] * (match.kind == "ambiguous")
            wrong["doubles_dropped"] += [entry] * (item in ranking)
            ranking[item] = None
        if not ranking:
            wrong["missing_turns" if prediction is None else "empty_rankings"].append(turn.id)
        rankings.append(tuple(ranking))
    return AlignedPredictions(
        name=name,
        rankings=tuple(rankings),
        recommended=tuple(_recommended(prediction, matcher) for prediction in ordered),
        predictions=ordered,
        hallucinated=tuple(_is_hallucinated(prediction, matcher) for prediction in ordered),
        candidates=tuple(prediction.seen if prediction is not None else None for prediction in ordered),
        counts={what: len(found) for what, found in wrong.items()},
        matching={kind: kinds[kind] for kind in MATCH_KINDS},
        examples={what: list(dict.fromkeys(found))[:_EXAMPLES] for what, found in wrong.items() if found},
        source=source or {},
    )


def _recommended(prediction: Prediction | None, matcher: TitleMatcher) -> str | None:
    if prediction is None:
        return None
    said = prediction.recommendation
    if said is None:
        return NOTHING if "recommendation" in prediction.model_fields_set else None
    # What is no item stays as it is: the ranking's first must not take its place.
    return matcher.match(said).item or said


def _is_hallucinated(prediction: Prediction | None, matcher: TitleMatcher) -> bool | None:
    if prediction is None:
        return None
    if prediction.hallucinated is not None:
        return prediction.hallucinated
    said = prediction.answer if prediction.answer is not None else prediction.recommendation
    if said is None:
        said = prediction.ranking[0] if prediction.ranking else None
    return None if said is None else matcher.match(said).item is None


def load(
    name: str, path: str | Path, data: EvaluationData, matcher: TitleMatcher | None = None
) -> AlignedPredictions:
    """Read a predictions file and align it; see `read_predictions` and `align`."""
    path = Path(path)
    source: dict[str, Any] = {"path": str(path), "sha256": sha256_of(path)} if path.is_file() else {}
    predictions = read_predictions(path)
    beside = path.with_name(path.name + ".run.json")
    if beside.is_file():
        source["settings"] = read_json(beside)
    return align(name, predictions, data, matcher=matcher, source=source)
