"""What an embeddings server answered, read from its JSON: as many vectors as texts were sent, or an error."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["UnreadableVectorsError", "vectors_of"]

# Characters shown of a text that came in place of an answer.
_SHOWN = 60


class UnreadableVectorsError(Exception):
    """The server answered something that is not one vector for each text."""


def vectors_of(body: bytes, count: int) -> list[list[float]]:
    """Return the vectors of an answer, in the order of the texts.

    Parameters
    ----------
    body
        As it came: OpenAI's JSON, each vector a list of numbers or the base64 of 32-bit floats.
    count
        How many texts were sent.

    Raises
    ------
    UnreadableVectorsError
        If it is anything else: no JSON, other JSON, more or fewer vectors, numbers that are not finite.
    """
    try:
        answer = json.loads(body)
    except ValueError:  # UnicodeDecodeError is one, too
        shown = body[:_SHOWN].decode(errors="replace")
        raise UnreadableVectorsError(f"the answer is no JSON: {shown!r}") from None
    rows = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UnreadableVectorsError("the answer has no list of embeddings under 'data'")
    if len(rows) != count:
        raise UnreadableVectorsError(f"{len(rows)} vectors came for {count} texts")
    vectors = [_vector(row.get("embedding")) for row in _in_order(rows)]
    lengths = {len(vector) for vector in vectors}
    if len(lengths) > 1 or 0 in lengths:
        raise UnreadableVectorsError(f"the vectors have the dimensions {sorted(lengths)}")
    return vectors


def _in_order(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    places = [row.get("index") for row in rows]
    if any(place is None for place in places):  # some servers leave it out
        return list(rows)
    if sorted(map(str, places)) != sorted(map(str, range(len(rows)))):
        raise UnreadableVectorsError(f"the vectors have the numbers {places[:5]}, not 0 to {len(rows) - 1}")
    return sorted(rows, key=lambda row: int(row["index"]))


def _vector(told: Any) -> list[float]:
    try:
        found = np.frombuffer(base64.b64decode(told, validate=True), "<f4") if isinstance(told, str) else told
        vector = np.asarray(found, dtype=np.float64)
    except (ValueError, TypeError):
        raise UnreadableVectorsError("a vector is no list of numbers") from None
    if vector.ndim != 1 or not np.isfinite(vector).all():
        raise UnreadableVectorsError("a vector is no list of finite numbers")
    numbers: list[float] = vector.tolist()
    return numbers
