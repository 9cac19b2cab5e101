"""What happened on each turn, as rows for the HTML report and for ``--show-errors``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reges_index.evaluation.diagnosis import Fate, fates
from reges_index.evaluation.predictions import AlignedPredictions
from reges_index.evaluation.protocol import ProtocolName, picked, visible
from reges_index.evaluation.scoring import Evaluation

__all__ = ["lost_turns", "turn_rows"]

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
    found = {
        system.name: fates(
            pairs,
            evaluation.scores[protocol][system.name],
            evaluation.data.positions,
            top_k=evaluation.settings.top_k,
            system=system,
        )
        for system in evaluation.systems
    }
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
