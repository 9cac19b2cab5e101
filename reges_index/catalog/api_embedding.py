"""`ApiEmbedding`: LlamaIndex's OpenAI client for embeddings, whose faults are told apart, without the key.

Apart from `api_encoder` because importing it loads the client library, which need not be installed.
"""

from __future__ import annotations

from typing import Any

from llama_index.embeddings.openai import OpenAIEmbedding
from tenacity import AsyncRetrying, Retrying

from reges_index.catalog.api_vectors import UnreadableVectorsError, vectors_of
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

__all__ = ["ApiEmbedding"]


class ApiEmbedding(OpenAIEmbedding):
    """`OpenAIEmbedding` with the retries of this package, in place of two loops in one another.

    Every answer is checked (`vectors_of`). ``max_retries`` counts the further attempts after a time-out, a
    broken connection, an answer that cannot be read, and HTTP 408, 409, 425, 429 and 5xx, with back-off.

    Raises
    ------
    EncoderServerError
        From whatever embeds: if no usable vectors came.
    """

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._asked([query], self._query_engine)[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._asked([text], self._text_engine)[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._asked(texts, self._text_engine)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return (await self._aasked([query], self._query_engine))[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aasked([text], self._text_engine))[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await self._aasked(texts, self._text_engine)

    def _asked(self, texts: list[str], engine: str) -> list[list[float]]:
        retrying = Retrying(**self._retries())

        def one() -> list[list[float]]:
            client = self._get_client().with_options(max_retries=0)
            raw = client.embeddings.with_raw_response.create(**self._request(texts, engine))
            return vectors_of(raw.content, len(texts))

        try:
            return retrying(one)
        except Exception as error:
            failure = self._failure(error, attempts_of(retrying))
            if failure is None:
                raise
        raise failure  # outside of the except block, or the error that may hold the key would be its context

    async def _aasked(self, texts: list[str], engine: str) -> list[list[float]]:
        retrying = AsyncRetrying(**self._retries())

        async def one() -> list[list[float]]:
            client = self._get_aclient().with_options(max_retries=0)
            raw = await client.embeddings.with_raw_response.create(**self._request(texts, engine))
            return vectors_of(raw.content, len(texts))

        try:
            return await retrying(one)
        except Exception as error:
            failure = self._failure(error, attempts_of(retrying))
            if failure is None:
                raise
        raise failure

    def _request(self, texts: list[str], engine: str) -> dict[str, Any]:
        # Without line breaks, as LlamaIndex sends them: vectors must not depend on which class asked.
        lines = [text.replace("\n", " ") for text in texts]
        return {"input": lines, "model": engine, **self.additional_kwargs}

    def _retries(self) -> dict[str, Any]:
        return RetryPolicy(max_retries=self.max_retries).options(_may_pass, server_address(self))

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
