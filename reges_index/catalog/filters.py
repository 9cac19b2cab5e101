"""LlamaIndex metadata filters, with one meaning for every store.

The stock stores translate filters each in its own way: one knows no lists, another turns ``!=`` into a
substring search. Here a filter is first brought into a small tree of tests, its keys are checked against the
fields that there are, and each store translates that.

A value passes a test by these rules. ``==`` (also CONTAINS) holds if the item's value is equal or is a list
that has it; what is equal is said by `facet`, which every store keeps for each value. ``!=`` is its opposite,
so an item without the key passes. IN and ANY need one of the values, ALL each of them, NIN none. ``<``,
``<=``, ``>`` and ``>=`` compare numbers with numbers; anything else does not pass.
"""

from __future__ import annotations

import difflib
import json
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
from reges_index.files import hash_of

if TYPE_CHECKING:
    from reges_index.catalog.item import Item

Scalar: TypeAlias = str | bool | int | float

_ORDER = {
    FilterOperator.GT: ">",
    FilterOperator.LT: "<",
    FilterOperator.GTE: ">=",
    FilterOperator.LTE: "<=",
}
# Every catalog has these, whether or not an item has a value there.
_FIELDS = frozenset({"id", "title", "year", "genres", "cast", "creators", "creator_role"})
# A longer text is kept as its hash.
_LONGEST_FACET = 100
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


def is_number(value: Any) -> bool:
    """Whether a value can be compared with numbers."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def facet(key: str, value: Scalar) -> str:
    """Return the text that stands for a value of a field: the same for values that count as equal.

    Texts are equal whatever their case, and to the number or the boolean that they spell: "Crime" and
    "crime"; 5, 5.0 and "5"; True and "true". Ids are equal as they are written.
    """
    number = as_number(value) if isinstance(value, str) else value
    text = str(value).strip().casefold()
    if key == "id":
        kind, text = "text", str(value)
    elif isinstance(value, bool) or text in ("true", "false"):
        kind = "boolean"
    elif number is not None:
        # Beyond the range where floats are exact, integers keep their digits.
        whole = isinstance(number, int) or number.is_integer()
        kind, text = "number", str(int(number)) if whole else repr(number)
    else:
        kind, text = "text", text if len(text) <= _LONGEST_FACET else hash_of(text)
    return json.dumps([key, kind, text])


def facets_of(values: Mapping[str, Any]) -> list[str]:
    """Return the facets of all values, of lists those of each entry."""
    entries = ((key, value if isinstance(value, (list, tuple)) else [value]) for key, value in values.items())
    return list(
        dict.fromkeys(
            facet(key, value) for key, listed in entries for value in listed if isinstance(value, Scalar)
        )
    )


def check_keys(where: Filter, values: Iterable[Mapping[str, Any]], place: str, known: set[str]) -> None:
    """Check the keys of a filter.

    Parameters
    ----------
    values
        Of the items (`item_values`), looked through only as far as needed.
    place
        Of the items, as messages name it.
    known
        Fields that were found before; what is found is added.

    Raises
    ------
    InputError
        If no item has a field of that name; the message says which there are. If a year is no number.
    """
    for check in _checks(where):
        if check.key == "year" and isinstance(check.value, str) and as_number(check.value) is None:
            raise InputError(f"filter on 'year' has the value {check.value!r}", hint="it holds numbers")
    wanted = {check.key for check in _checks(where)}
    known |= _FIELDS
    is_empty = True
    for one in values if wanted - known else ():
        is_empty = False
        known |= one.keys()
        if wanted <= known:
            break
    if not is_empty and (unknown := sorted(wanted - known)):
        near = difflib.get_close_matches(unknown[0].lower(), known, n=1)
        meant = f"; {near[0]!r} perhaps?" if near else ""
        raise InputError(
            f"filter on {unknown[0]!r}: no item of {place} has that{meant}",
            hint=f"fields to filter on are {', '.join(sorted(known))}",
        )


def _checks(where: Filter) -> list[Check]:
    return [where] if isinstance(where, Check) else [check for part in where.parts for check in _checks(part)]


def passes(where: Filter | None, values: Mapping[str, Any]) -> bool:
    """Whether an item's values pass a filter: what every store must agree with."""
    if where is None:
        return True
    if isinstance(where, Group):
        return (all if where.joint == "and" else any)(passes(part, values) for part in where.parts)
    value = values.get(where.key)
    if where.sign in _COMPARE:
        compare: Callable[[Any, Any], bool] = _COMPARE[where.sign]
        return is_number(value) and compare(value, where.value)
    is_equal = facet(where.key, where.value) in facets_of({where.key: value})
    return is_equal if where.sign == "==" else not is_equal
