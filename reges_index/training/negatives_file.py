"""Reading files of hard negatives, whoever wrote them: this package's miners, or a user."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from reges_index.dialogue import Turn
from reges_index.errors import InputError
from reges_index.files import json_lines

__all__ = ["read_negatives", "read_retrieved"]


def read_negatives(
    path: str | Path,
    *,
    turns: Sequence[Turn] | None = None,
    item_ids: Collection[str] | None = None,
) -> dict[str, list[str]]:
    """Read mined negatives: id of the turn to ids of items, the nearest first.

    Parameters
    ----------
    turns
        Where given, every row has to be of one of them, and no negative may be one of its targets.
    item_ids
        Where given, every negative has to be one of them.

    Raises
    ------
    InputError
        Naming file, line and id: malformed JSON, an id twice, no list of negatives, a negative that is
        unknown or a target; or when the file holds no row.
    """
    return {key: ids for _, key, ids, _ in _checked(path, turns, item_ids)}


def _checked(
    path: str | Path, turns: Sequence[Turn] | None, item_ids: Collection[str] | None
) -> Iterator[tuple[str, str, list[str], dict[str, Any]]]:
    """Yield place, id, negatives and row of each line, as `read_negatives` checks them."""
    by_id = {turn.id: turn for turn in turns} if turns is not None else None
    known = frozenset(item_ids) if item_ids is not None else None
    seen: set[str] = set()
    for number, row in json_lines(path):
        where, key = f"{path}:{number}", row.get("id")
        if not isinstance(key, str) or not key:
            raise InputError(f"{where}: the row has no 'id'")
        if key in seen:
            raise InputError(f"{where}: id {key!r} occurs twice")
        if by_id is not None and key not in by_id:
            raise InputError(
                f"{where}: {key!r} is none of the {len(by_id)} turns",
                hint="is this file for other conversations?",
            )
        ids = _ids_of(row.get("negatives"), where)
        stray = next((item_id for item_id in ids if known is not None and item_id not in known), None)
        if stray is not None:
            raise InputError(
                f"{where}: negative {stray!r} of {key!r} is not in the catalog",
                hint="mine the negatives with the catalog that you train with",
            )
        truth = next((i for i in ids if by_id is not None and i in by_id[key].targets), None)
        if truth is not None:
            raise InputError(
                f"{where}: {truth!r} is a target of {key!r} and cannot be a negative", hint="remove it"
            )
        seen.add(key)
        yield where, key, ids, row
    if not seen:
        raise InputError(f"{path}: nothing in it", hint="write it with `reges finetune negatives`")


def read_retrieved(
    path: str | Path, *, turns: Sequence[Turn], item_ids: Collection[str], needs_targets: bool = False
) -> dict[str, list[str]]:
    """Read what was retrieved for each turn, its targets among the negatives, the nearest first.

    Targets that were retrieved after the last negative are not in the list, and none is for rows without
    ``targets``, such as those of versions before this key.

    Parameters
    ----------
    needs_targets
        Refuse a file in which no row has ``targets``: all of them would count as missed.

    Raises
    ------
    InputError
        As `read_negatives`; also if a ``targets`` entry is no target of the turn or not in the catalog, or
        an entry beside targets has no rank.
    """
    retrieved: dict[str, list[str]] = {}
    own = {turn.id: turn.targets for turn in turns}
    has_targets = False
    for where, key, ids, row in _checked(path, turns, item_ids):
        has_targets |= "targets" in row
        targets = _ids_of(row.get("targets", []), where, "targets")
        if not targets:
            retrieved[key] = ids
            continue
        stray = next((i for i in targets if i not in own[key] or i not in item_ids), None)
        if stray is not None:
            raise InputError(
                f"{where}: {stray!r} is no target of {key!r} in this catalog",
                hint="mine the negatives again with these turns and this catalog",
            )
        entries = [*row["negatives"], *row["targets"]]
        ranked = [isinstance(entry, dict) and isinstance(entry.get("rank"), int) for entry in entries]
        unranked = next((entry for entry, good in zip(entries, ranked, strict=True) if not good), None)
        if unranked is not None:
            raise InputError(f"{where}: {unranked!r} has no rank", hint='each is {"id", "rank", "score"}')
        retrieved[key] = [entry["id"] for entry in sorted(entries, key=lambda entry: entry["rank"])]
    if needs_targets and not has_targets:
        raise InputError(
            f"{path}: no row has 'targets', so nobody knows which true items were retrieved, and where",
            hint="missed_share below 1 and candidate_order 'retrieved' need that: mine the negatives anew "
            "(`reges finetune negatives`)",
        )
    return retrieved


def _ids_of(entries: Any, where: str, key: str = "negatives") -> list[str]:
    if not isinstance(entries, list):
        raise InputError(f"{where}: the row has no list {key!r}")
    ids: list[str] = []
    for entry in entries:
        item_id = entry.get("id") if isinstance(entry, dict) else entry
        if not isinstance(item_id, str) or not item_id:
            raise InputError(
                f"{where}: {entry!r} is no entry of {key!r}", hint='each is {"id", "rank", "score"}'
            )
        if item_id in ids:
            raise InputError(f"{where}: {item_id!r} occurs twice in {key!r}")
        ids.append(item_id)
    return ids
