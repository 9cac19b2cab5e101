"""Whether turns are still what rows of a file were made from, so that a resumed run can tell."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from reges_index.dialogue.messages import Turn
from reges_index.errors import InputError

__all__ = ["check_unchanged", "turn_hash"]

_NAMED = 3


def turn_hash(turn: Turn, labels: Iterable[str] | None) -> str:
    """Return a hash of a turn's messages and of labels of it, in any order: targets, or what is mentioned."""
    said = [[message.role, message.content] for message in turn.messages]
    known = sorted(labels) if labels is not None else None
    return hashlib.sha256(json.dumps([said, known]).encode()).hexdigest()[:16]


def check_unchanged(
    path: Path,
    made_from: Mapping[str, str | None],
    turns: Iterable[Turn],
    hash_of: Callable[[Turn], str],
    *,
    labels: str,
    hint: str,
) -> None:
    """Refuse to go on with a file where a turn in it is another one now.

    Parameters
    ----------
    path
        The file.
    made_from
        Id of each turn in it -> its hash then; None, of rows of earlier versions, is taken as unchanged.
    hash_of
        Gives a turn's hash now.
    labels
        What the hash covers beside the messages, in words.

    Raises
    ------
    InputError
        Naming the turns.
    """
    known = ((turn, made_from.get(turn.id)) for turn in turns)
    changed = [turn.id for turn, before in known if before is not None and before != hash_of(turn)]
    if changed:
        raise InputError(
            f"{path}: {len(changed)} of its turns have other messages or {labels} now: "
            f"{', '.join(changed[:_NAMED])}{', ...' if len(changed) > _NAMED else ''}",
            hint=hint,
        )
