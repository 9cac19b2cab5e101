"""LLMs of OpenAI's kind: which they are, and a copy that asks once and whose answers are checked."""

from __future__ import annotations

import asyncio
from functools import cache
from types import new_class
from typing import Any
from weakref import WeakKeyDictionary

from llama_index.core.llms.llm import LLM

from reges_index.models.api_answers import checked

__all__ = ["is_openai_kind", "single_attempt"]

# Of a copy: event loop -> client.
_OPENED = "_reges_clients"


def is_openai_kind(llm: LLM) -> bool:
    """Say whether an LLM is LlamaIndex's OpenAI class or made from it (OpenAILike, Azure and others)."""
    # Asked by name, so that llama-index-llms-openai need not be installed.
    return any(
        kind.__name__ == "OpenAI" and kind.__module__.startswith("llama_index.llms.openai")
        for kind in type(llm).__mro__
    )


def single_attempt(llm: LLM, *, plain: bool = False, **fields: Any) -> LLM:
    """Return a copy of an LLM of OpenAI's kind that sends each request once; other LLMs as they are.

    Its own retries are two loops in one another (the client's and LlamaIndex's), which would multiply
    with ours and which nobody counts. Answers are checked as they come, see `checked`.

    Parameters
    ----------
    plain
        Leave out the temperature, and call ``max_tokens`` ``max_completion_tokens``, as some models want it.
    **fields
        Fields to change in the copy.
    """
    if not is_openai_kind(llm):
        return llm
    copy = llm.model_copy(update={"max_retries": 0, **fields})
    copy.__class__ = _asking_once(type(llm), plain)
    return copy


@cache
def _asking_once(kind: type[Any], plain: bool) -> type[Any]:
    """Return the same class with clients that retry nothing and check what comes."""

    # Copies of the clients: they may be the user's own, made with his number of retries. A copy shares the
    # connections.
    def _get_client(llm: Any) -> Any:
        return checked(kind._get_client(llm).with_options(max_retries=0))

    def _get_aclient(llm: Any) -> Any:
        # Connections belong to the event loop that opened them: in another one, such as that of a second
        # asyncio.run, they are dead. A client that the user has given is his to look after.
        opened = llm.__dict__.setdefault(_OPENED, WeakKeyDictionary())
        loop = asyncio.get_running_loop()
        if loop not in opened:
            client = kind._get_aclient(llm)
            if opened and llm._async_http_client is None:
                from openai import DefaultAsyncHttpxClient

                fresh = DefaultAsyncHttpxClient(base_url=client.base_url, timeout=client.timeout)
                client = client.with_options(http_client=fresh)
            opened[loop] = client
        return checked(opened[loop].with_options(max_retries=0))

    def _get_model_kwargs(llm: Any, **kwargs: Any) -> dict[str, Any]:
        settings: dict[str, Any] = kind._get_model_kwargs(llm, **kwargs)
        if plain:
            settings.pop("temperature", None)
            if "max_tokens" in settings:
                settings["max_completion_tokens"] = settings.pop("max_tokens")
        return settings

    def fill(body: dict[str, Any]) -> None:
        body |= {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
        body |= {"_get_client": _get_client, "_get_aclient": _get_aclient}
        body |= {"_get_model_kwargs": _get_model_kwargs}

    return new_class(kind.__name__, (kind,), exec_body=fill)
