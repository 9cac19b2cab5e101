"""Catalog filters as Qdrant filters, and the names that metadata have in a payload."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from reges_index.catalog.filters import Check, Filter, Group

if TYPE_CHECKING:
    from qdrant_client import models

__all__ = ["payload_key", "qdrant_filter"]

# What Qdrant reads as one key; anything else could be taken as a path into the payload.
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_HIDDEN = "reges_key_"
# From here on floats skip integers.
_EXACT = 2**53
_BOUNDS = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}


def payload_key(key: str) -> str:
    """Return the name of a metadata key in the payload: itself, or its UTF-8 as hex where it has signs."""
    return key if _PLAIN.fullmatch(key) else _HIDDEN + key.encode(errors="surrogatepass").hex()


def qdrant_filter(where: Filter) -> models.Filter:
    """Translate a filter."""
    from qdrant_client import models

    if isinstance(where, Group):
        parts: list[Any] = [qdrant_filter(part) for part in where.parts]
        return models.Filter(must=parts) if where.joint == "and" else models.Filter(should=parts)
    if where.sign in _BOUNDS:
        bounds = models.Range.model_validate({_BOUNDS[where.sign]: where.value})
        return models.Filter(must=[models.FieldCondition(key=payload_key(where.key), range=bounds)])
    equal = _equal(where)
    # "Should" needs one of them; the opposite is that none holds.
    return models.Filter(should=equal) if where.sign == "==" else models.Filter(must_not=equal)


def _equal(check: Check) -> list[Any]:
    """Conditions of which one holds when the value, or an entry of it, is equal."""
    from qdrant_client import models

    key, value = payload_key(check.key), check.value
    found = []
    if not isinstance(value, float):
        found.append(models.FieldCondition(key=key, match=models.MatchValue(value=value)))
    if isinstance(value, float) or (not isinstance(value, (bool, str)) and abs(value) <= _EXACT):
        same = models.Range(gte=value, lte=value)
        found.append(models.FieldCondition(key=key, range=same))
    return found
