"""Catalog filters as LanceDB SQL.

LanceDB's tables have typed columns, items have any metadata. So a row carries its metadata twice over: each
value as one text in the list ``facets``, for equality, and the numbers as JSON, for comparing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from reges_index.catalog.filters import Filter, Group, Scalar
from reges_index.errors import InputError

__all__ = ["facets_of", "joined", "numbers_of", "quoted", "sql_of", "struct_sql_of"]


def facets_of(metadata: Mapping[str, Any]) -> list[str]:
    """Return one text for each value, and each entry of a list."""
    facets: list[str] = []
    for key, value in metadata.items():
        facets += [_facet(key, entry) for entry in (value if isinstance(value, list) else [value])]
    return facets


def numbers_of(metadata: Mapping[str, Any]) -> str:
    """Return the numbers among the values as a JSON object."""
    return json.dumps({key: value for key, value in metadata.items() if _is_number(value)})


def sql_of(where: Filter) -> str:
    """Translate a filter for tables of this package."""
    if isinstance(where, Group):
        return "(" + f" {where.joint.upper()} ".join(map(sql_of, where.parts)) + ")"
    if where.sign in ("==", "!="):
        found = f"array_has(facets, {quoted(_facet(where.key, where.value))})"
        return found if where.sign == "==" else f"(NOT {found})"
    return f"coalesce(json_get_float(numbers, {quoted(where.key)}) {where.sign} {where.value!r}, false)"


def struct_sql_of(where: Filter, kinds: Mapping[str, str]) -> str:
    """Translate a filter for tables of LlamaIndex's `LanceDBVectorStore`.

    Parameters
    ----------
    kinds
        Of the fields of the struct ``metadata``: "text", "number" or "boolean". Others are as if missing.
    """
    if isinstance(where, Group):
        return "(" + f" {where.joint.upper()} ".join(struct_sql_of(part, kinds) for part in where.parts) + ")"
    kind = kinds.get(where.key)
    fits = kind == ("text" if isinstance(where.value, str) else "number")
    if isinstance(where.value, bool):
        fits = kind == "boolean"
    if not fits:
        return "true" if where.sign == "!=" else "false"
    if "`" in where.key:
        raise InputError(f"filter on {where.key!r}: LanceDB has no such key", hint="leave out the backtick")
    literal = quoted(where.value) if isinstance(where.value, str) else json.dumps(where.value)
    sign = {"==": "=", "!=": "<>"}.get(where.sign, where.sign)
    found = f"metadata.`{where.key}` {sign} {literal}"
    return f"coalesce({found}, {'true' if where.sign == '!=' else 'false'})"


def quoted(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def joined(texts: Iterable[str]) -> str:
    """Return texts as the inside of an SQL list."""
    return ", ".join(map(quoted, texts))


def _facet(key: str, value: Scalar) -> str:
    if isinstance(value, str):
        kind, text = "s", value
    elif isinstance(value, bool):
        kind, text = "b", str(value)
    else:
        # 5 and 5.0 are one number; beyond the range where floats are exact, integers keep their digits.
        whole = isinstance(value, int) or value.is_integer()
        kind, text = "n", str(int(value)) if whole else repr(value)
    return json.dumps([key, kind, text], ensure_ascii=True)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
