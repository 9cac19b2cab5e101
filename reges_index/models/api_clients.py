"""LLMs of OpenAI's kind: which they are, and a copy that asks once and whose answers are checked."""

from __future__ import annotations

from functools import cache
from types import new_class
from typing import Any

from llama_index.core.llms.llm import LLM

from reges_index.models.api_answers import checked

__all__ = ["is_openai_kind", "single_attempt"]


def is_openai_kind(llm: LLM) -> bool:
    """Say whether an LLM is LlamaIndex's OpenAI class or made from it (OpenAILike, Azure and others)."""
    # Asked by name, so that llama-index-llms-openai need not be installed.
    return any(
        kind.__name__ == "OpenAI" and kind.__module__.startswith("llama_index.llms.openai")
        for kind in type(llm).__mro__
    )


def single_attempt(llm: LLM, **fields: Any) -> LLM:
    """Return a copy of an LLM of OpenAI's kind that sends each request once; other LLMs as they are.

    Its own retries are two loops in one another (the client's and LlamaIndex's), which would multiply
    with ours and which nobody counts. Answers are checked as they come, see `checked`.

    Parameters
    ----------
    **fields
        Fields to change in the copy.
    """
    if not is_openai_kind(llm):
        return llm
    copy = llm.model_copy(update={"max_retries": 0, **fields})
    copy.__class__ = _asking_once(type(llm))
    return copy


@cache
def _asking_once(kind: type[Any]) -> type[Any]:
    """Return the same class with clients that retry nothing and check what comes."""

    # Copies of the clients: they may be the user's own, made with his number of retries. A copy shares the
    # connections.
    def _get_client(llm: Any) -> Any:
        return checked(kind._get_client(llm).with_options(max_retries=0))

    def _get_aclient(llm: Any) -> Any:
        return checked(kind._get_aclient(llm).with_options(max_retries=0))

    def fill(body: dict[str, Any]) -> None:
        body |= {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
        body |= {"_get_client": _get_client, "_get_aclient": _get_aclient}

    return new_class(kind.__name__, (kind,), exec_body=fill)
