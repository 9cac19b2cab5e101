"""LlamaIndex metadata filters, with one meaning for every store.

The stock stores translate filters each in its own way: one knows no lists, another turns ``!=`` into a
substring search. Here a filter is first brought into a small tree of tests, and each store translates that.

A value passes a test by these rules. ``==`` (also CONTAINS) holds if the item's value is equal or is a list
that has it; numbers are equal whether written 5 or 5.0, and True is no number. ``!=`` is its opposite, so an
item without the key passes. IN and ANY need one of the values, ALL each of them, NIN none. ``<``, ``<=``,
``>`` and ``>=`` compare numbers with numbers; anything else does not pass.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)

from reges_index.errors import InputError

__all__ = ["Check", "Filter", "Group", "Scalar", "all_of", "chroma_where", "parse_filters", "passes"]

Scalar: TypeAlias = str | bool | int | float
Where = dict[str, Any]

_ORDER = {
    FilterOperator.GT: ">",
    FilterOperator.LT: "<",
    FilterOperator.GTE: ">=",
    FilterOperator.LTE: "<=",
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
_CHROMA = {"==": "$eq", "!=": "$ne", ">": "$gt", "<": "$lt", ">=": "$gte", "<=": "$lte"}


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


def chroma_where(where: Filter) -> Where:
    """Translate a filter into a Chroma ``where`` clause."""
    if isinstance(where, Group):
        return {f"${where.joint}": [chroma_where(part) for part in where.parts]}
    plain = {where.key: {_CHROMA[where.sign]: where.value}}
    if where.sign in _COMPARE or not isinstance(where.value, str):  # lists hold texts only
        return plain
    in_list = {where.key: {"$contains" if where.sign == "==" else "$not_contains": where.value}}
    return {"$or" if where.sign == "==" else "$and": [plain, in_list]}
