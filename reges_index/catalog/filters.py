"""LlamaIndex metadata filters as Chroma ``where`` clauses, with membership for lists.

The stock translation knows neither lists nor CONTAINS, ANY and ALL, and `nin` and `!=` of it never match a
list as one would expect.
"""

from __future__ import annotations

from typing import Any

from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)

from reges_index.errors import InputError

__all__ = ["to_where"]

Where = dict[str, Any]

_SCALAR = {
    FilterOperator.EQ: "$eq",
    FilterOperator.NE: "$ne",
    FilterOperator.GT: "$gt",
    FilterOperator.LT: "$lt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LTE: "$lte",
    FilterOperator.IN: "$in",
    FilterOperator.NIN: "$nin",
}
# Operators that on a list mean "has (not) this name" or "has any, all or none of these names".
_ON_LIST = {
    FilterOperator.EQ: ("$contains", "$and"),
    FilterOperator.NE: ("$not_contains", "$and"),
    FilterOperator.CONTAINS: ("$contains", "$and"),
    FilterOperator.IN: ("$contains", "$or"),
    FilterOperator.ANY: ("$contains", "$or"),
    FilterOperator.ALL: ("$contains", "$and"),
    FilterOperator.NIN: ("$not_contains", "$and"),
}
_ONLY_ON_LISTS = frozenset({FilterOperator.CONTAINS, FilterOperator.ANY, FilterOperator.ALL})


def to_where(filters: MetadataFilters | None, list_keys: frozenset[str]) -> Where | None:
    """Translate filters.

    Parameters
    ----------
    filters
        May be nested; conditions AND and OR. None or empty is no restriction.
    list_keys
        Metadata keys that hold lists. On these, ``==`` and CONTAINS mean membership, IN and ANY any of the
        names, ALL all of them, ``!=`` and NIN none of them. CONTAINS, ANY and ALL mean so on every key.

    Raises
    ------
    InputError
        If Chroma has no such condition or operator.
    """
    if filters is None or not filters.filters:
        return None
    clauses = []
    for entry in filters.filters:
        if isinstance(entry, MetadataFilters):
            clause = to_where(entry, list_keys)
        else:
            clause = _clause(entry, list_keys)
        if clause is not None:
            clauses.append(clause)
    condition = filters.condition or FilterCondition.AND
    if condition not in (FilterCondition.AND, FilterCondition.OR):
        raise InputError(f"filter condition {condition.value!r} is not supported", hint="use 'and' or 'or'")
    return _join(f"${condition.value}", clauses)


def _clause(entry: MetadataFilter, list_keys: frozenset[str]) -> Where | None:
    operator = entry.operator
    if operator in _ONLY_ON_LISTS or (entry.key in list_keys and operator in _ON_LIST):
        verb, joint = _ON_LIST[operator]
        values = entry.value if isinstance(entry.value, list) else [entry.value]
        if not values:
            raise InputError(f"filter on {entry.key!r} has an empty list", hint="name at least one value")
        return _join(joint, [{entry.key: {verb: value}} for value in values])
    if operator not in _SCALAR or entry.key in list_keys:
        raise InputError(
            f"filter operator {operator.value!r} on {entry.key!r} is not supported by Chroma",
            hint=f"use one of {', '.join(op.value for op in (*_SCALAR, *_ONLY_ON_LISTS))}",
        )
    return {entry.key: {_SCALAR[operator]: entry.value}}


def _join(joint: str, clauses: list[Where]) -> Where | None:
    if len(clauses) <= 1:
        return clauses[0] if clauses else None
    return {joint: clauses}
