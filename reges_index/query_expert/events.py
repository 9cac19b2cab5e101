"""LlamaIndex instrumentation of query writing, for which LlamaIndex has no event."""

from __future__ import annotations

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.instrumentation.events import BaseEvent
from pydantic import ConfigDict


class ExpertEvent(BaseEvent):
    """What an expert's event says of its request.

    Attributes
    ----------
    model, adapter
        Which model answered, and with which of its adapters.
    messages
        The prompt as it was sent, but for the model's chat template.
    prompt_tokens, history_tokens
        Of the whole prompt text, and of the dialogue in it.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=())

    model: str
    adapter: str | None
    messages: list[ChatMessage]
    prompt_tokens: int
    history_tokens: int

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the event."""
        return cls.__name__


class QueryWrittenEvent(ExpertEvent):
    """The query expert has turned a dialogue into a query; sent before the retrieval's events.

    Attributes
    ----------
    answers
        What the model wrote, uncleaned.
    answer_tokens
        Tokens of each answer.
    queries
        What is embedded: the cleaned queries, and the newest messages where these are embedded too.
    fallback
        Whether the model wrote nothing usable, so that the seeker's last message stands in.
    """

    answers: list[str]
    answer_tokens: list[int]
    queries: list[str]
    fallback: bool
