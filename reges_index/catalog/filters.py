"""LlamaIndex metadata filters, with one meaning for every store.

The stock stores translate filters each in its own way: one knows no lists, another turns ``!=`` into a
substring search. Here a filter is first brought into a small tree of tests, its keys are checked against the
fields that there are, and each store translates that.

A value passes a test by these rules. ``==`` (also CONTAINS) holds if the item's value is equal or is a list
that has it; numbers are equal whether written 5 or 5.0, and True is no number. ``!=`` is its opposite, so an
item without the key passes. IN and ANY need one of the values, ALL each of them, NIN none. ``<``, ``<=``,
``>`` and ``>=`` compare numbers with numbers; anything else does not pass.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)

from reges_index.catalog.fields import as_number
from reges_index.errors import InputError

if TYPE_CHECKING:
    from reges_index.catalog.item import Item

__all__ = [
    "Check",
    "Filter",
    "Group",
    "Scalar",
    "all_of",
    "checked",
    "item_values",
    "parse_filters",
    "passes",
]

Scalar: TypeAlias = str | bool | int | float

_ORDER = {
    FilterOperator.GT: ">",
    FilterOperator.LT: "<",
    FilterOperator.GTE: ">=",
    FilterOperator.LTE: "<=",
}
# Every catalog has these, whether or not an item has a value there.
_KINDS: dict[str, type] = {
    **{"id": str, "title": str, "year": int, "genres": list, "cast": list},
    **{"creators": list, "creator_role": list},
}
_COMPARE = {">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le}
# Operator, sign of its tests, and how the tests for several values are joined.
_MEMBERSHIP: dict[FilterOperator, tuple[str, Literal["and", "or"]]] = {
    FilterOperator.EQ: ("==", "and"),
    FilterOperator.NE: ("!=", "and"),
    FilterOperator.CONTAINS: ("==", "and"),
    FilterOperator.IN: ("==", "or"),
    FilterOperator.ANY: ("==", "or"),
    FilterOperator.ALL: ("==", "and"),
    FilterOperator.NIN: ("!=", "and"),
}


class Check(NamedTuple):
    """One comparison: ``==``, ``!=``, ``<``, ``<=``, ``>`` or ``>=``."""

    key: str
    sign: str
    value: Scalar


class Group(NamedTuple):
    """Tests that must all hold ("and") or of which one must ("or"); never empty."""

    joint: Literal["and", "or"]
    parts: tuple[Check | Group, ...]


Filter: TypeAlias = Check | Group


def all_of(*filters: MetadataFilters | None) -> MetadataFilters | None:
    """Return filters that hold where all of the given ones do; None where none of them restricts anything."""
    given = [some for some in filters if some is not None and some.filters]
    if len(given) <= 1:
        return given[0] if given else None
    return MetadataFilters(filters=list(given), condition=FilterCondition.AND)


def parse_filters(filters: MetadataFilters | None) -> Filter | None:
    """Bring filters into the tree that stores translate; None or empty is no restriction.

    Parameters
    ----------
    filters
        May be nested; conditions AND and OR.

    Raises
    ------
    InputError
        If an operator, a condition or a value is of another kind.
    """
    if filters is None or not filters.filters:
        return None
    condition = filters.condition or FilterCondition.AND
    if condition not in (FilterCondition.AND, FilterCondition.OR):
        raise InputError(f"filter condition {condition.value!r} is not supported", hint="use 'and' or 'or'")
    parts = [
        parse_filters(entry) if isinstance(entry, MetadataFilters) else _parse(entry)
        for entry in filters.filters
    ]
    return _join("and" if condition is FilterCondition.AND else "or", [part for part in parts if part])


def _parse(entry: MetadataFilter) -> Filter:
    values = entry.value if isinstance(entry.value, list) else [entry.value]
    if not values:
        raise InputError(f"filter on {entry.key!r} has an empty list", hint="name at least one value")
    if entry.operator in _ORDER:
        bound = values[0]
        if len(values) != 1 or isinstance(bound, bool) or not isinstance(bound, (int, float)):
            raise InputError(
                f"filter {entry.operator.value!r} on {entry.key!r} compares with {entry.value!r}",
                hint="compare with one number",
            )
        return Check(entry.key, _ORDER[entry.operator], bound)
    if entry.operator not in _MEMBERSHIP:
        known = ", ".join(op.value for op in (*_MEMBERSHIP, *_ORDER))
        raise InputError(
            f"filter operator {entry.operator.value!r} on {entry.key!r} is not supported",
            hint=f"use one of {known}",
        )
    sign, joint = _MEMBERSHIP[entry.operator]
    checks: list[Filter] = []
    for value in values:
        if not isinstance(value, (str, int, float)):
            raise InputError(
                f"filter on {entry.key!r} has the value {value!r}", hint="use a text, a number or a boolean"
            )
        checks.append(Check(entry.key, sign, value))
    joined = _join(joint, checks)
    assert joined is not None  # there is a value
    return joined


def _join(joint: Literal["and", "or"], parts: list[Filter]) -> Filter | None:
    if len(parts) <= 1:
        return parts[0] if parts else None
    return Group(joint, tuple(parts))


def item_values(item: Item) -> dict[str, Any]:
    """Return all that an item can be filtered by; fields that it does not have are left out."""
    lists = {"genres": item.genres, "cast": item.cast, "creators": item.creators}
    lists |= {key: item.makers[role] for role, key in item.maker_keys().items()}
    values: dict[str, Any] = {"id": item.id, "title": item.title, "year": item.year, **item.metadata}
    values.update({key: list(names) for key, names in lists.items()}, creator_role=list(item.makers))
    return {key: value for key, value in values.items() if value is not None and value != []}


def checked(
    where: Filter,
    values: Iterable[Mapping[str, Any]],
    place: str,
    known: dict[str, type] | None = None,
) -> Filter:
    """Check the keys of a filter, and bring its values into the form that the items have.

    Parameters
    ----------
    values
        Of the items (`item_values`), looked through only as far as needed.
    place
        Of the items, as messages name it.
    known
        Fields that were found before, with the kinds of their values; what is found is added.

    Raises
    ------
    InputError
        If no item has a field of that name; the message says which there are.
    """
    kinds: dict[str, type] = {} if known is None else known
    kinds.update(_KINDS)
    wanted = _keys(where)
    is_empty = True
    if not wanted <= kinds.keys():
        for one in values:
            is_empty = False
            kinds.update((key, type(value)) for key, value in one.items() if key not in kinds)
            if wanted <= kinds.keys():
                break
        if not is_empty and (unknown := sorted(wanted - kinds.keys())):
            near = difflib.get_close_matches(unknown[0].lower(), kinds, 1)
            meant = f"; {near[0]!r} perhaps?" if near else ""
            raise InputError(
                f"filter on {unknown[0]!r}: no item of {place} has that{meant}",
                hint=f"fields to filter on are {', '.join(sorted(kinds))}",
            )
    return _fitted(where, kinds)


def _keys(where: Filter) -> set[str]:
    if isinstance(where, Check):
        return {where.key}
    return set().union(*map(_keys, where.parts))


def _fitted(where: Filter, kinds: Mapping[str, type]) -> Filter:
    if isinstance(where, Group):
        return Group(where.joint, tuple(_fitted(part, kinds) for part in where.parts))
    kind, value = kinds.get(where.key, str), where.value
    if where.key == "id" and isinstance(value, int) and not isinstance(value, bool):
        return where._replace(value=str(value))
    if kind in (int, float) and isinstance(value, str):
        number = as_number(value)
        if number is not None:
            return where._replace(value=number)
        if where.key in _KINDS:
            raise InputError(f"filter on {where.key!r} has the value {value!r}", hint="it holds numbers")
    return where


def passes(where: Filter | None, metadata: Mapping[str, Any]) -> bool:
    """Whether an item's metadata passes a filter: what every store must agree with."""
    if where is None:
        return True
    if isinstance(where, Group):
        return (all if where.joint == "and" else any)(passes(part, metadata) for part in where.parts)
    value = metadata.get(where.key)
    if where.sign in _COMPARE:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        compare: Callable[[Any, Any], bool] = _COMPARE[where.sign]
        return is_number and compare(value, where.value)
    values = value if isinstance(value, (list, tuple)) else [value]
    found = any(_equal(entry, where.value) for entry in values)
    return found if where.sign == "==" else not found


def _equal(one: Any, other: Scalar) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
