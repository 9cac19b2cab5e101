"""Where a target is lost, by counts and turn by turn: not in the catalog or the top k, or not picked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import numpy as np

from reges_index.dialogue import Turn
from reges_index.evaluation.metrics import ProtocolName, picked, visible
from reges_index.evaluation.predictions import AlignedPredictions
from reges_index.evaluation.result import Row
from reges_index.evaluation.scoring import Evaluation

Fate: TypeAlias = Literal["not_in_catalog", "not_in_top_k", "not_picked", "picked"]
_FATES: tuple[Fate, ...] = ("not_in_catalog", "not_in_top_k", "not_picked", "picked")

_LENGTHS = ((4, "1-4"), (8, "5-8"), (12, "9-12"), (16, "13-16"), (np.inf, "17+"))
_MENTIONS = ((0, "0"), (1, "1"), (2, "2"), (4, "3-4"), (np.inf, "5+"))


def fates(evaluation: Evaluation, protocol: ProtocolName) -> dict[str, list[Fate]]:
    """Say for each system and each pair what became of the pair's target.

    ``top_k`` of the settings is how many candidates the item expert chose from, by the ranking that the
    protocol leaves. Where a prediction says itself how many of the ranking's first items were seen, the
    target must be among those too. They never widen ``top_k``, which the table's header names: a retriever
    may state probabilities of far more items. A recommendation that is right counts as ``picked`` wherever
    it stands.
    """
    pairs, top_k = evaluation.pairs[protocol], evaluation.settings.top_k
    found: dict[str, list[Fate]] = {}
    for system in evaluation.systems:
        scores = evaluation.scores[protocol][system.name]
        hits = (scores.column("rec_success_rate") > 0).tolist()
        found[system.name] = own = []
        for turn, target, rank, hit in zip(
            pairs.turn.tolist(), pairs.target, scores.rank.tolist(), hits, strict=True
        ):
            seen = system.candidates[turn]
            shown = seen is None or target in system.rankings[turn][:seen]
            if target not in evaluation.data.positions:
                own.append("not_in_catalog")
            elif hit:
                own.append("picked")
            else:
                own.append("not_picked" if shown and 0 < rank <= top_k else "not_in_top_k")
    return found


def lost_rows(evaluation: Evaluation) -> list[Row]:
    """Return for each system the share of targets of each fate."""
    top_k = evaluation.settings.top_k
    words: dict[Fate, str] = {
        "picked": "picked",
        "not_picked": f"in the top {top_k}, not picked",
        "not_in_top_k": f"not in the top {top_k}",
        "not_in_catalog": "not in the catalog",
    }
    return [
        Row(
            name,
            "",
            protocol,
            said,
            found.count(fate) / len(found),
            len(found),
            part="Where targets are lost",
        )
        for protocol in evaluation.scores
        for name, found in fates(evaluation, protocol).items()
        for fate, said in words.items()
    ]


def groups_of(turn: Turn) -> tuple[str, str]:
    """Return a turn's groups: by its number of messages, and by how many items its dialogue has named."""
    length = next(name for bound, name in _LENGTHS if len(turn.messages) <= bound)
    if turn.mentioned is None:
        return length, "unknown"
    count = len(set(turn.mentioned))
    return length, next(name for bound, name in _MENTIONS if count <= bound)


def group_rows(evaluation: Evaluation) -> list[Row]:
    """Break success and recall down by length of the dialogue and by number of mentions."""
    rows = []
    kinds = (
        ("messages", "By length of the dialogue", _LENGTHS),
        ("mentions", "By items that were named", (*_MENTIONS, (0, "unknown"))),
    )
    for place, (what, part, groups) in enumerate(kinds):
        for protocol, scores in evaluation.scores.items():
            turns = evaluation.pairs[protocol].turn.tolist()
            inside = np.array([groups_of(evaluation.data.turns[turn])[place] for turn in turns])
            for _, group in groups:
                here = inside == group
                rows += [
                    Row(
                        name, f"{group} {what}", protocol, metric,
                        float(own.column(metric)[here].mean()), int(here.sum()), part=part,
                    )
                    for name, own in scores.items()
                    for metric in ("rec_success_rate", "recall@50")
                    if here.any()
                ]  # fmt: skip
    return rows


# -- turn by turn -----------------------------------------------------------------------------------

_SHOWN = 10


def _label(evaluation: Evaluation, item_id: str) -> str:
    item = evaluation.data.by_id.get(item_id)
    if item is None:
        return f"{item_id} (not in the catalog)"
    return item.title if item.year is None else f"{item.title} ({item.year})"


def turn_rows(
    evaluation: Evaluation, protocol: ProtocolName, *, limit: int | None = None
) -> list[dict[str, Any]]:
    """Return one row for each turn that the protocol counts, in the order of the file.

    Parameters
    ----------
    limit
        Most rows; None for all.

    Returns
    -------
    Rows with ``id``, ``dialog_id``, ``messages`` (role, content), ``targets`` and ``mentioned`` (as titles),
    and ``systems``: for each its ``query``, ``pick``, first ten ``candidates`` with ``probability`` and
    ``target`` marks, and for each target its ``rank`` and ``fate``.
    """
    pairs = evaluation.pairs[protocol]
    if not pairs.target:
        return []
    by_turn: dict[int, list[int]] = {}
    for pair, turn in enumerate(pairs.turn.tolist()):
        by_turn.setdefault(turn, []).append(pair)
    found = fates(evaluation, protocol)
    return [_row(evaluation, protocol, turn, rows, found) for turn, rows in list(by_turn.items())[:limit]]


def _row(
    evaluation: Evaluation,
    protocol: ProtocolName,
    number: int,
    rows: list[int],
    found: dict[str, list[Fate]],
) -> dict[str, Any]:
    turn = evaluation.data.turns[number]
    pairs = evaluation.pairs[protocol]
    return {
        "id": turn.id,
        "dialog_id": turn.dialog_id,
        "messages": [{"role": m.role, "content": m.content} for m in turn.messages],
        "targets": [_label(evaluation, pairs.target[row]) for row in rows],
        "mentioned": None if turn.mentioned is None else [_label(evaluation, i) for i in turn.mentioned],
        "systems": {
            system.name: {
                **_prediction(evaluation, protocol, system, number, {pairs.target[row] for row in rows}),
                "ranks": [int(evaluation.scores[protocol][system.name].rank[row]) for row in rows],
                "fates": [found[system.name][row] for row in rows],
            }
            for system in evaluation.systems
        },
    }


def _prediction(
    evaluation: Evaluation, protocol: ProtocolName, system: AlignedPredictions, number: int, targets: set[str]
) -> dict[str, Any]:
    prediction = system.predictions[number]
    excluded = evaluation.pairs[protocol].excluded[number]
    ranking = visible(system.rankings[number], excluded)
    pick = picked(system.recommended[number], ranking, excluded)
    probabilities: dict[str, float | None] = {}
    if prediction is not None and prediction.probabilities is not None:
        # Only ids say for sure which entry a probability belongs to once doubles are gone.
        probabilities = dict(zip(prediction.ranking, prediction.probabilities, strict=False))
    return {
        "query": None if prediction is None else prediction.query,
        "pick": _label(evaluation, pick) if pick else None,
        "listed": len(ranking),
        "candidates": [
            {
                "title": _label(evaluation, item),
                "probability": probabilities.get(item),
                "target": item in targets,
            }
            for item in ranking[:_SHOWN]
        ],
    }


def lost_turns(evaluation: Evaluation, system: str, protocol: ProtocolName) -> Iterator[dict[str, Any]]:
    """Yield the rows of `turn_rows` in which a system picked none of the targets."""
    for row in turn_rows(evaluation, protocol):
        if "picked" not in row["systems"][system]["fates"]:
            yield row
