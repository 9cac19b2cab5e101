"""What engines are asked with: any form of a dialogue, and items that must not come up."""

from __future__ import annotations

from collections.abc import Iterable

from llama_index.core.schema import QueryBundle

from reges_index.dialogue import Dialogue, DialogueQueryBundle
from reges_index.errors import InputError

__all__ = ["as_bundle", "unique_ids"]


def as_bundle(dialogue: Dialogue | QueryBundle) -> QueryBundle:
    """Return any form of a dialogue as a query bundle that carries it."""
    if isinstance(dialogue, DialogueQueryBundle):
        return dialogue
    if isinstance(dialogue, QueryBundle):
        return DialogueQueryBundle.from_dialogue(dialogue.query_str)
    return DialogueQueryBundle.from_dialogue(dialogue)


def unique_ids(ids: Iterable[str]) -> list[str]:
    """Return ids without repeats; a text, which is a sequence of letters, is refused."""
    if isinstance(ids, str):
        raise InputError(f"exclude_ids is the text {ids!r}", hint=f"give a list: [{ids!r}]")
    return list(dict.fromkeys(ids))
