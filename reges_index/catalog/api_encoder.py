"""`ApiEmbedding`: LlamaIndex's OpenAI client for embeddings, whose faults are told apart, without the key.

Importing it loads the client library, which need not be installed.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any

import numpy as np
from llama_index.embeddings.openai import OpenAIEmbedding
from pydantic import BaseModel, BeforeValidator, Field, FiniteFloat, ValidationError

from reges_index.driver import Do, Work, arun, run
from reges_index.errors import EncoderServerError
from reges_index.remote import (
    Attempts,
    RetryPolicy,
    http_status,
    is_transient,
    retry_after_s,
    server_address,
    server_error,
)

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
        attempts = Attempts(RetryPolicy(max_retries=self.max_retries), _may_pass, server_address(self))

        def now() -> list[list[float]]:
            client = self._get_client().with_options(max_retries=0)
            return vectors_of(client.embeddings.with_raw_response.create(**request).content, len(texts))

        async def later() -> list[list[float]]:
            client = self._get_aclient().with_options(max_retries=0)
            raw = await client.embeddings.with_raw_response.create(**request)
            return vectors_of(raw.content, len(texts))

        try:
            found: list[list[float]] = yield from attempts.plan(Do(now, later))
        except Exception as error:  # whatever a client raises
            if not _may_pass(error) and http_status(error) is None:  # about neither server nor key
                raise
            where = server_address(self)
            failure = server_error(
                EncoderServerError, error, self,
                what=f"encoder {self.model_name!r} at {where} gave no vectors",
                hint=self._hint(error, http_status(error), where), attempts=attempts.made,
            )  # fmt: skip
        else:
            return found
        raise failure  # outside of the except block, or the error that may hold the key would be its context

    def _hint(self, error: Exception, status: int | None, where: str) -> str:
        if isinstance(error, UnreadableVectorsError):
            return f"does {where} speak OpenAI's protocol for embeddings? the address usually ends in /v1"
        if status is None:
            return f"is the server running, and reachable at {where}?"
        if status in (401, 403):
            keys = "OPENAI_API_KEY in the environment for openai:, OPENAI_LIKE_API_KEY for openai-like:"
            return f"check the key: {keys}"
        if status == 404:
            return (
                f"does the server know a model {self.model_name!r}? its address usually ends in /v1: {where}"
            )
        if status == 429:
            asked = retry_after_s(error)
            wait = f"the server asks to wait {asked:.0f} s; " if asked else ""
            return f"{wait}send less at once, or go on later: what was indexed is kept"
        if status >= 500:
            return "look into the server's log, or try again later"
        return "a text may be longer than the model takes, or the batch too large for the server"


def _may_pass(error: BaseException) -> bool:
    return is_transient(error) or isinstance(error, UnreadableVectorsError)


class UnreadableVectorsError(Exception):
    """The server answered something that is not one vector for each text."""


def _floats(told: Any) -> Any:
    return (
        np.frombuffer(base64.b64decode(told, validate=True), "<f4").tolist()
        if isinstance(told, str)
        else told
    )


class _Row(BaseModel):
    index: int | None = None  # some servers leave it out
    embedding: Annotated[list[FiniteFloat], BeforeValidator(_floats), Field(min_length=1)]


class _Answer(BaseModel):
    data: list[_Row]


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
        rows = _Answer.model_validate_json(body).data
    except ValidationError as error:
        problem = error.errors(include_input=False)[0]
        where = ".".join(map(str, problem["loc"])) or "it"
        shown = body[:_SHOWN].decode(errors="replace")
        said = f"the answer {shown!r} holds no vectors: {where}: {problem['msg']}"
        raise UnreadableVectorsError(said) from None
    if len(rows) != count:
        raise UnreadableVectorsError(f"{len(rows)} vectors came for {count} texts")
    places = [row.index for row in rows if row.index is not None]
    if places and sorted(places) != list(range(count)):
        raise UnreadableVectorsError(f"the vectors have the numbers {places[:5]}, not 0 to {count - 1}")
    if lengths := {len(row.embedding) for row in rows} - {len(rows[0].embedding)}:
        raise UnreadableVectorsError(f"the vectors have different dimensions, such as {min(lengths)}")
    return [row.embedding for row in sorted(rows, key=lambda row: row.index or 0)]
