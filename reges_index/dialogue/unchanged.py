"""What a turn is, as a hash, so that a resumed run can tell that it is another one now."""

from __future__ import annotations

from collections.abc import Iterable

from reges_index.dialogue.messages import Turn
from reges_index.files import hash_of

__all__ = ["turn_hash"]


def turn_hash(turn: Turn, labels: Iterable[str] | None) -> str:
    """Return a hash of a turn's messages and of labels of it, in any order: targets, or what is mentioned."""
    said = [[message.role, message.content] for message in turn.messages]
    return hash_of([said, sorted(labels) if labels is not None else None], digits=16)
