"""`ApiEmbedding`: LlamaIndex's OpenAI client for embeddings, whose faults are told apart, without the key.

Importing it loads the client library, which need not be installed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from llama_index.core.bridge.pydantic import Field
from llama_index.embeddings.openai import OpenAIEmbedding
from tenacity import AsyncRetrying, Retrying

from reges_index.driver import Do, Work, arun, run
from reges_index.errors import EncoderServerError
from reges_index.remote.faults import (
    fault_kind,
    http_status,
    is_transient,
    retry_after_s,
    safe_cause,
    server_address,
    without_secrets,
)
from reges_index.remote.retries import RetryPolicy, attempts_of

__all__ = ["ApiEmbedding", "UnreadableVectorsError", "vectors_of"]

# Characters shown of a text that came in place of an answer.
_SHOWN = 60


class ApiEmbedding(OpenAIEmbedding):
    """`OpenAIEmbedding` with the retries of this package, in place of two loops in one another.

    Every answer is checked (`vectors_of`). ``max_retries`` counts the further attempts after a time-out, a
    broken connection, an answer that cannot be read, and HTTP 408, 409, 425, 429 and 5xx, with back-off.

    Raises
    ------
    EncoderServerError
        From whatever embeds: if no usable vectors came.
    """

    query_instruction: str = Field(default="", description="what is put before queries")
    text_instruction: str = Field(default="", description="what is put before texts")

    def _get_query_embedding(self, query: str) -> list[float]:
        return run(self._ask([self.query_instruction + query], self._query_engine))[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return run(self._ask([self.text_instruction + text for text in texts], self._text_engine))

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return (await arun(self._ask([self.query_instruction + query], self._query_engine)))[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await arun(self._ask([self.text_instruction + text for text in texts], self._text_engine))

    def _ask(self, texts: list[str], engine: str) -> Work[list[list[float]]]:
        # Without line breaks, as LlamaIndex sends them: vectors must not depend on which class asked.
        lines = [text.replace("\n", " ") for text in texts]
        request = {"input": lines, "model": engine, **self.additional_kwargs}
        options = RetryPolicy(max_retries=self.max_retries).options(_may_pass, server_address(self))
        plain, waiting = Retrying(**options), AsyncRetrying(**options)

        def now() -> list[list[float]]:
            client = self._get_client().with_options(max_retries=0)
            return vectors_of(client.embeddings.with_raw_response.create(**request).content, len(texts))

        async def later() -> list[list[float]]:
            client = self._get_aclient().with_options(max_retries=0)
            raw = await client.embeddings.with_raw_response.create(**request)
            return vectors_of(raw.content, len(texts))

        try:
            found: list[list[float]] = yield Do(lambda: plain(now), lambda: waiting(later))
        except Exception as error:
            failure = self._failure(error, max(attempts_of(plain), attempts_of(waiting)))
            if failure is None:
                raise
        else:
            return found
        raise failure  # outside of the except block, or the error that may hold the key would be its context

    def _failure(self, error: Exception, attempts: int) -> EncoderServerError | None:
        """Return what a client's error says of the server, without the key; None if it is about neither."""
        status, where = http_status(error), server_address(self)
        if not _may_pass(error) and status is None:
            return None
        said = " ".join(without_secrets(str(error), self).split())[:300]
        times = f" after {attempts} attempts" if attempts > 1 else ""
        told = EncoderServerError(
            f"encoder {self.model_name!r} at {where} gave no vectors{times}: {fault_kind(error)}: {said}",
            hint=self._hint(error, status, where),
            kind=fault_kind(error),
            status=status,
            attempts=attempts,
        )
        told.__cause__ = safe_cause(error, self)
        return told

    def _hint(self, error: Exception, status: int | None, where: str) -> str:
        if status in (401, 403):
            return (
                "check the key: OPENAI_API_KEY in the environment for openai:, OPENAI_LIKE_API_KEY for "
                "openai-like:"
            )
        if status == 404:
            return (
                f"does the server know a model {self.model_name!r}? its address usually ends in /v1: {where}"
            )
        if status == 429:
            asked = retry_after_s(error)
            wait = f"the server asks to wait {asked:.0f} s; " if asked else ""
            return f"{wait}send less at once, or go on later: what was indexed is kept"
        if status is not None and status >= 500:
            return "look into the server's log, or try again later"
        if status is not None:
            return "a text may be longer than the model takes, or the batch too large for the server"
        if isinstance(error, UnreadableVectorsError):
            return f"does {where} speak OpenAI's protocol for embeddings? the address usually ends in /v1"
        return f"is the server running, and reachable at {where}?"


def _may_pass(error: BaseException) -> bool:
    return is_transient(error) or isinstance(error, UnreadableVectorsError)


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
