"""Which (turn, target) pairs count, and what a system scores on each of them.

Papers on conversational recommendation differ in one thing that moves their numbers by half: whether a
target that the dialogue has already named counts. Both ways are always reported here.

``all``
    Every target of every turn; nothing leaves the ranking. Copying the last mentioned item scores well.
``new``
    Only targets that were not mentioned before; mentioned items leave the ranking, and a turn without a
    new target leaves the denominator (He et al. 2023, arXiv 2308.10053, show why).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reges_index.dialogue import Turn

ProtocolName: TypeAlias = Literal["all", "new"]
PROTOCOLS: tuple[ProtocolName, ...] = ("all", "new")
SUCCESS = "rec_success_rate"
"""Recall@1 of what was recommended (section 3.3 of the paper)."""

_RANKING_METRICS = (
    *(f"recall@{k}" for k in (1, 5, 10, 20, 50)),
    *(f"mrr@{k}" for k in (10, 50)),
    *(f"ndcg@{k}" for k in (10, 50)),
)
METRICS: tuple[str, ...] = (SUCCESS, *_RANKING_METRICS)
DEPTH = 50
"""Rankings count down to here. All metrics are cut, or a system that lists more would look better."""


@dataclass(frozen=True)
class Pairs:
    """The (turn, target) pairs of a protocol; P pairs out of T turns and D dialogues.

    Attributes
    ----------
    turn
        Shape (P,): index of the pair's turn.
    target
        P item ids.
    dialogue
        Shape (P,): number of the pair's dialogue, 0 to D-1, numbered by first appearance.
    excluded
        T sets of item ids that leave the ranking.
    counts
        ``turns_counted``, ``dialogues_counted`` and ``pairs`` are what is left of ``turns``; the others say
        what is not: ``turns_without_targets``, ``turns_without_mention_labels`` (``new`` cannot judge them),
        ``turns_without_new_targets``, ``repeated_targets_dropped`` (mentioned before, under ``new``) and
        ``double_targets_dropped``. ``targets_outside_catalog`` stay as misses; each of
        ``turns_without_dialogue_id`` counts as a dialogue of its own, so intervals may be too narrow.
    """

    protocol: ProtocolName
    turn: NDArray[np.int64]
    target: tuple[str, ...]
    dialogue: NDArray[np.int64]
    excluded: tuple[frozenset[str], ...]
    counts: dict[str, int]


def make_pairs(turns: Sequence[Turn], protocol: ProtocolName, catalog_ids: Collection[str]) -> Pairs:
    """Collect the pairs that a protocol counts.

    Parameters
    ----------
    turns
        T turns.
    catalog_ids
        Ids of the catalog; a set or mapping, as every target is looked up in it.
    """
    found: list[tuple[int, str, int]] = []
    dialogues: dict[str, int] = {}
    excluded = [frozenset(turn.mentioned or () if protocol == "new" else ()) for turn in turns]
    n: Counter[str] = Counter()
    for number, turn in enumerate(turns):
        targets = tuple(dict.fromkeys(turn.targets))
        n["double_targets_dropped"] += len(turn.targets) - len(targets)
        kept = [target for target in targets if target not in excluded[number]]
        if not targets:
            n["turns_without_targets"] += 1
        elif protocol == "new" and turn.mentioned is None:
            n["turns_without_mention_labels"] += 1
        else:
            n["repeated_targets_dropped"] += len(targets) - len(kept)
            n["turns_without_new_targets" if not kept else "turns_counted"] += 1
            if kept:
                # A prefix keeps a turn's own id from meeting a dialogue's.
                key = f"d:{turn.dialog_id}" if turn.dialog_id else f"t:{turn.id}"
                dialogue = dialogues.setdefault(key, len(dialogues))
                found += [(number, target, dialogue) for target in kept]
    counts = {
        "turns": len(turns),
        "turns_counted": n["turns_counted"],
        "dialogues_counted": len(dialogues),
        "pairs": len(found),
        "turns_without_targets": n["turns_without_targets"],
        "turns_without_mention_labels": n["turns_without_mention_labels"],
        "turns_without_new_targets": n["turns_without_new_targets"],
        "repeated_targets_dropped": n["repeated_targets_dropped"],
        "double_targets_dropped": n["double_targets_dropped"],
        "targets_outside_catalog": sum(target not in catalog_ids for _, target, _ in found),
        "turns_without_dialogue_id": sum(not turn.dialog_id for turn in turns),
    }
    return Pairs(
        protocol=protocol,
        turn=np.asarray([turn for turn, _, _ in found], dtype=np.int64),
        target=tuple(target for _, target, _ in found),
        dialogue=np.asarray([dialogue for *_, dialogue in found], dtype=np.int64),
        excluded=tuple(excluded),
        counts=counts,
    )


def visible(ranking: Sequence[str], excluded: Collection[str]) -> tuple[str, ...]:
    """Return a ranking without the items that the protocol takes out, order kept."""
    return tuple(item for item in ranking if item not in excluded) if excluded else tuple(ranking)


def picked(recommended: str | None, left: Sequence[str], excluded: Collection[str]) -> str | None:
    """Return the item that counts as recommended; None where there is none.

    Parameters
    ----------
    recommended
        What the system says; None for the ranking's first, an empty text for nothing at all. An item that the
        protocol takes out gives way to the first that it leaves.
    left
        The ranking that the protocol leaves (`visible`).
    """
    if recommended is None or recommended in excluded:
        return left[0] if left else None
    return recommended or None


@dataclass(frozen=True)
class PairScores:
    """What one system scores on each of P pairs.

    Attributes
    ----------
    values
        Shape (P, M), columns in the order of `METRICS`, each in [0, 1].
    rank
        Shape (P,): place of the target in the ranking that the protocol leaves, 1 being the best; 0 where
        the ranking does not hold it. Not cut at `DEPTH`.
    """

    values: NDArray[np.float64]
    rank: NDArray[np.int64]

    def column(self, metric: str) -> NDArray[np.float64]:
        """Return one metric's values, shape (P,)."""
        return self.values[:, METRICS.index(metric)]


def score_pairs(
    pairs: Pairs,
    rankings: Sequence[Sequence[str]],
    catalog: Mapping[str, int],
    recommended: Sequence[str | None] | None = None,
) -> PairScores:
    """Score the rankings of one system.

    With one right answer, recall, reciprocal rank and nDCG follow from its rank alone.

    Parameters
    ----------
    rankings
        One for each turn, item ids best first, none twice. Ids that are not in ``catalog`` keep their
        place and are misses.
    catalog
        Item id to a number, 0 to M-1.
    recommended
        For each turn the item that was recommended, where that may differ from the first of the ranking;
        None for the first. One that the protocol excludes gives way to the first that it does not.
    """
    count = len(pairs.target)
    rank, success = np.zeros(count, dtype=np.int64), np.zeros(count)
    left = {int(t): visible(rankings[t], pairs.excluded[t]) for t in np.unique(pairs.turn)}
    for row, (turn, target) in enumerate(zip(pairs.turn.tolist(), pairs.target, strict=True)):
        if target in catalog:
            rank[row] = left[turn].index(target) + 1 if target in left[turn] else 0
            said = recommended[turn] if recommended is not None else None
            success[row] = picked(said, left[turn], pairs.excluded[turn]) == target
    place = np.maximum(rank, 1)  # of no use where there is none
    gains = {"recall": np.ones(count), "mrr": 1 / place, "ndcg": 1 / np.log2(1 + place)}
    columns = [success]
    for metric in _RANKING_METRICS:
        kind, _, cut = metric.partition("@")
        columns.append(np.where((rank > 0) & (rank <= int(cut)), gains[kind], 0.0))
    return PairScores(np.stack(columns, axis=1), rank)


def profile_recommendations(
    pairs: Pairs,
    rankings: Sequence[Sequence[str]],
    catalog: Mapping[str, int],
    popularity: Counter[str] | None = None,
    recommended: Sequence[str | None] | None = None,
) -> dict[str, float]:
    """Describe how varied and how popular recommendations are, over the turns that a protocol counts.

    Parameters
    ----------
    popularity
        Item id to how often it was a target in training (`data.target_counts`).
    recommended
        As for `score_pairs`; an empty text where nothing was recommended.

    Returns
    -------
    ``distinct@1`` and ``distinct@10``, the catalog items that are recommended at any turn or stand among the
    first ten; ``coverage@1`` and ``coverage@10``, their share of the catalog; ``mean popularity`` of what is
    recommended and ``share never a train target``, where ``popularity`` is known; ``turns without ranking``
    and ``turns without recommendation``.
    """
    turns = np.unique(pairs.turn).tolist()
    tops = [visible(rankings[t], pairs.excluded[t])[:10] for t in turns]
    said = [recommended[t] if recommended is not None else None for t in turns]
    picks = [picked(s, top, pairs.excluded[t]) for t, s, top in zip(turns, said, tops, strict=True)]
    firsts = [pick for pick in picks if pick is not None]
    at_1 = {item for item in firsts if item in catalog}
    at_10 = {item for top in tops for item in top if item in catalog}
    found: dict[str, float] = {
        "distinct@1": len(at_1),
        "coverage@1": len(at_1) / max(1, len(catalog)),
        "distinct@10": len(at_10),
        "coverage@10": len(at_10) / max(1, len(catalog)),
    }
    if popularity is not None and firsts:
        seen = [popularity[item] for item in firsts]
        found["mean popularity"] = float(np.mean(seen))
        found["share never a train target"] = float(np.mean([count == 0 for count in seen]))
    found["turns without ranking"] = sum(not top for top in tops)
    found["turns without recommendation"] = len(picks) - len(firsts)
    return found
