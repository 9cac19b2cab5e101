"""Where a target is lost, by counts and turn by turn: not in the catalog or the top k, or not picked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reges_index.dialogue import Turn
from reges_index.evaluation.metrics import PairScores
from reges_index.evaluation.predictions import AlignedPredictions
from reges_index.evaluation.protocol import Pairs, ProtocolName, picked, visible
from reges_index.evaluation.scoring import Evaluation

__all__ = [
    "FATES",
    "Fate",
    "by_group",
    "fate_counts",
    "fates",
    "length_group",
    "lost_turns",
    "mention_group",
    "turn_rows",
]

Fate: TypeAlias = Literal["not_in_catalog", "not_in_top_k", "not_picked", "picked"]
FATES: tuple[Fate, ...] = ("not_in_catalog", "not_in_top_k", "not_picked", "picked")

_LENGTHS = ((4, "1-4"), (8, "5-8"), (12, "9-12"), (16, "13-16"))
_MENTIONS = ((0, "0"), (1, "1"), (2, "2"), (4, "3-4"))


def fates(
    pairs: Pairs,
    scores: PairScores,
    catalog_ids: Mapping[str, int],
    *,
    top_k: int,
    system: AlignedPredictions | None = None,
) -> list[Fate]:
    """Say for each pair what became of its target.

    A system whose recommendation is not among its own candidates but right all the same counts as
    ``picked``.

    Parameters
    ----------
    top_k
        How many candidates the item expert chose from, by the ranking that the protocol leaves.
    system
        Where its predictions say themselves how many of the ranking's first items the item expert saw, the
        target must be among those too. They never widen ``top_k``, which the table's header names: a
        retriever may state probabilities of far more items.
    """
    picked = scores.column("rec_success_rate") > 0
    found: list[Fate] = []
    rows = zip(pairs.turn.tolist(), pairs.target, scores.rank.tolist(), picked.tolist(), strict=True)
    for turn, target, rank, hit in rows:
        seen = system.candidates[turn] if system is not None else None
        if target not in catalog_ids:
            found.append("not_in_catalog")
        elif hit:
            found.append("picked")
        else:
            shown = seen is None or system is None or target in system.rankings[turn][:seen]
            found.append("not_picked" if shown and 0 < rank <= top_k else "not_in_top_k")
    return found


def fate_counts(found: Sequence[Fate]) -> dict[str, int]:
    """Count the fates, in the order of `FATES`."""
    return {fate: sum(f == fate for f in found) for fate in FATES}


def length_group(turn: Turn) -> str:
    """Return the group of a turn by its number of messages."""
    return next((name for bound, name in _LENGTHS if len(turn.messages) <= bound), "17+")


def mention_group(turn: Turn) -> str:
    """Return the group of a turn by how many different items its dialogue has named."""
    if turn.mentioned is None:
        return "unknown"
    count = len(set(turn.mentioned))
    return next((name for bound, name in _MENTIONS if count <= bound), "5+")


_ORDERS = {
    "messages": (*(name for _, name in _LENGTHS), "17+"),
    "mentions": (*(name for _, name in _MENTIONS), "5+", "unknown"),
}


@dataclass(frozen=True)
class _Group:
    pairs: NDArray[np.bool_]
    name: str


def by_group(
    turns: Sequence[Turn], pairs: Pairs, scores: PairScores, found: Sequence[Fate]
) -> dict[str, Any]:
    """Break a system's results down by length of the dialogue and by number of mentions.

    Returns
    -------
    ``{"messages": [...], "mentions": [...]}``; each entry has ``group``, ``pairs``, the means of
    ``rec_success_rate`` and ``recall@50``, and the counts of `FATES`. Groups without a pair are left out.
    """
    result: dict[str, Any] = {}
    for kind, group_of in (("messages", length_group), ("mentions", mention_group)):
        names = np.array([group_of(turns[t]) for t in pairs.turn.tolist()], dtype=object)
        rows = []
        for group in (_Group(names == name, name) for name in _ORDERS[kind]):
            if not group.pairs.any():
                continue
            inside = [fate for fate, kept in zip(found, group.pairs.tolist(), strict=True) if kept]
            rows.append(
                {
                    "group": group.name,
                    "pairs": len(inside),
                    "rec_success_rate": float(scores.column("rec_success_rate")[group.pairs].mean()),
                    "recall@50": float(scores.column("recall@50")[group.pairs].mean()),
                    **fate_counts(inside),
                }
            )
        result[kind] = rows
    return result


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
