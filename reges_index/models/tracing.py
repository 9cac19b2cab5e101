"""LlamaIndex's instrumentation for what runs in this process: spans with types, and LLM chat events.

LLMs behind an API send these events themselves; a `LocalLM` is asked below LlamaIndex's LLM interface, so
the experts send them for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.instrumentation.events.llm import LLMChatEndEvent, LLMChatStartEvent
from llama_index_instrumentation import get_dispatcher

__all__ = ["chat_ended", "chat_started", "span"]

F = TypeVar("F", bound=Callable[..., Any])

dispatcher = get_dispatcher(__name__)


def span(method: F) -> F:
    """Make a span of each call; LlamaIndex's own decorator, which forgets the signature."""
    return cast(F, get_dispatcher(method.__module__).span(method))


def chat_started(
    messages: Sequence[ChatMessage], *, model: str, adapter: str | None, options: Mapping[str, Any]
) -> None:
    """Say that a model is about to answer ``messages``, with these options of decoding."""
    dispatcher.event(
        LLMChatStartEvent(
            messages=list(messages),
            additional_kwargs=dict(options),
            model_dict={"model": model, "adapter": adapter, "class_name": "LocalLM"},
        )
    )


def chat_ended(messages: Sequence[ChatMessage], response: ChatResponse) -> None:
    """Say what it answered; token counts are in ``response.additional_kwargs``."""
    dispatcher.event(LLMChatEndEvent(messages=list(messages), response=response))
