"""Which (turn, target) pairs count, and which items may stand in a ranking: the protocols side by side.

Papers on conversational recommendation differ in one thing that moves their numbers by half: whether a
target that the dialogue has already named counts. Both ways are always reported here.

``all``
    Every target of every turn; nothing leaves the ranking. Copying the last mentioned item scores well.
``new``
    Only targets that were not mentioned before; mentioned items leave the ranking, and a turn without a
    new target leaves the denominator (He et al. 2023, arXiv 2308.10053, show why).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reges_index.dialogue import Turn

__all__ = ["PROTOCOLS", "Pairs", "ProtocolCounts", "ProtocolName", "make_pairs", "picked", "visible"]

ProtocolName: TypeAlias = Literal["all", "new"]
PROTOCOLS: tuple[ProtocolName, ...] = ("all", "new")


@dataclass(frozen=True)
class ProtocolCounts:
    """What went into a protocol's denominator and what did not.

    Attributes
    ----------
    turns
        Turns in the file.
    turns_without_targets
        Turns that name no target at all.
    turns_without_mention_labels
        Turns whose mentions nobody labelled; the protocol ``new`` cannot judge them and leaves them out.
    turns_without_new_targets
        Turns left out of ``new`` because each of their targets was mentioned before.
    turns_counted, dialogues_counted, pairs
        What is left: turns, dialogues and (turn, target) pairs.
    repeated_targets_dropped
        Targets left out of ``new`` because they were mentioned before.
    double_targets_dropped
        Targets listed twice in one turn, counted once.
    targets_outside_catalog
        Pairs whose target is no catalog item. They stay in the denominator and nobody can hit them.
    turns_without_dialogue_id
        Turns without ``dialog_id``; each counts as a dialogue of its own, so intervals are too narrow when
        they do belong together.
    """

    turns: int
    turns_without_targets: int
    turns_without_mention_labels: int
    turns_without_new_targets: int
    turns_counted: int
    dialogues_counted: int
    pairs: int
    repeated_targets_dropped: int
    double_targets_dropped: int
    targets_outside_catalog: int
    turns_without_dialogue_id: int

    def as_dict(self) -> dict[str, int]:
        """Return the counts by name."""
        return asdict(self)


@dataclass(frozen=True)
class Pairs:
    """The (turn, target) pairs of a protocol; P pairs out of T turns and D dialogues.

    Attributes
    ----------
    protocol
        ``all`` or ``new``.
    turn
        Shape (P,): index of the pair's turn.
    target
        P item ids.
    dialogue
        Shape (P,): number of the pair's dialogue, 0 to D-1, numbered by first appearance.
    excluded
        T sets of item ids that leave the ranking.
    counts
        What was left out.
    """

    protocol: ProtocolName
    turn: NDArray[np.int64]
    target: tuple[str, ...]
    dialogue: NDArray[np.int64]
    excluded: tuple[frozenset[str], ...]
    counts: ProtocolCounts


def make_pairs(turns: Sequence[Turn], protocol: ProtocolName, catalog_ids: Collection[str]) -> Pairs:
    """Collect the pairs that a protocol counts.

    Parameters
    ----------
    turns
        T turns.
    catalog_ids
        Ids of the catalog; a set or mapping, as every target is looked up in it.
    """
    pair_turn: list[int] = []
    pair_target: list[str] = []
    pair_dialogue: list[int] = []
    dialogues: dict[str, int] = {}
    excluded: list[frozenset[str]] = []
    without_targets = unlabelled = without_new = repeated = doubles = counted = 0
    for number, turn in enumerate(turns):
        targets = tuple(dict.fromkeys(turn.targets))
        doubles += len(turn.targets) - len(targets)
        excluded.append(frozenset(turn.mentioned or ()) if protocol == "new" else frozenset())
        if not targets:
            without_targets += 1
            continue
        if protocol == "new":
            if turn.mentioned is None:
                unlabelled += 1
                continue
            kept = tuple(target for target in targets if target not in excluded[-1])
            repeated += len(targets) - len(kept)
            targets = kept
            if not targets:
                without_new += 1
                continue
        counted += 1
        # A prefix keeps a turn's own id from meeting a dialogue's.
        key = f"d:{turn.dialog_id}" if turn.dialog_id else f"t:{turn.id}"
        dialogue = dialogues.setdefault(key, len(dialogues))
        for target in targets:
            pair_turn.append(number)
            pair_target.append(target)
            pair_dialogue.append(dialogue)
    counts = ProtocolCounts(
        turns=len(turns),
        turns_without_targets=without_targets,
        turns_without_mention_labels=unlabelled,
        turns_without_new_targets=without_new,
        turns_counted=counted,
        dialogues_counted=len(dialogues),
        pairs=len(pair_turn),
        repeated_targets_dropped=repeated,
        double_targets_dropped=doubles,
        targets_outside_catalog=sum(target not in catalog_ids for target in pair_target),
        turns_without_dialogue_id=sum(not turn.dialog_id for turn in turns),
    )
    return Pairs(
        protocol=protocol,
        turn=np.asarray(pair_turn, dtype=np.int64),
        target=tuple(pair_target),
        dialogue=np.asarray(pair_dialogue, dtype=np.int64),
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
