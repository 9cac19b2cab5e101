"""Choosing with an LLM behind an API: structured output limited to the candidates, else matched text."""

from __future__ import annotations

import logging
from typing import Any, Literal

from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel, Field, ValidationError, create_model

from reges_index.item_expert.matching import match_answer
from reges_index.item_expert.prompt import SelectionPrompt
from reges_index.item_expert.selection import Selection
from reges_index.models.backend import ApiBackend

__all__ = ["ApiSelector"]

logger = logging.getLogger(__name__)


class ApiSelector:
    """LLM_G over any LlamaIndex LLM.

    A function-calling model is asked for one of the candidates' numbers, and its schema admits nothing
    else. Where the model has no such output, or answers outside it, the paper's prompt is sent as plain
    chat and the text matched to the candidates; `Selection.fallbacks` counts that.
    """

    def __init__(self, backend: ApiBackend) -> None:
        self._backend = backend
        self._llm: LLM = backend.llm

    @property
    def _structured(self) -> bool:
        return bool(self._llm.metadata.is_function_calling_model)

    def select(self, prompt: SelectionPrompt) -> Selection:
        """Choose among the prompt's candidates."""
        fallbacks = 0
        if self._structured:
            schema = choice_schema(len(prompt.labels))
            try:
                reply = self._llm.structured_predict(schema, numbered_prompt(prompt))
                return self._picked(prompt, reply)
            except (ValueError, ValidationError, TypeError) as error:
                fallbacks = self._note_failure(error)
        answer = str(self._llm.chat(list(prompt.messages)).message.content or "")
        return self._matched(prompt, answer, fallbacks)

    async def aselect(self, prompt: SelectionPrompt) -> Selection:
        """Choose without blocking the event loop."""
        fallbacks = 0
        if self._structured:
            schema = choice_schema(len(prompt.labels))
            try:
                reply = await self._llm.astructured_predict(schema, numbered_prompt(prompt))
                return self._picked(prompt, reply)
            except (ValueError, ValidationError, TypeError) as error:
                fallbacks = self._note_failure(error)
        answer = str((await self._backend.achat(prompt.messages)).message.content or "")
        return self._matched(prompt, answer, fallbacks)

    @staticmethod
    def _note_failure(error: Exception) -> int:
        logger.warning("structured output failed (%s); matching plain text instead", type(error).__name__)
        return 1

    @staticmethod
    def _picked(prompt: SelectionPrompt, reply: Any) -> Selection:
        pick = int(reply.candidate) - 1  # the schema admits "1" to "k" only
        return Selection.of_pick(pick, len(prompt.labels), "structured", answer=prompt.labels[pick])

    @staticmethod
    def _matched(prompt: SelectionPrompt, answer: str, fallbacks: int) -> Selection:
        pick = match_answer(answer, prompt.labels)
        if pick is None:
            logger.warning("the answer %r names no candidate; the retriever's first stands in", answer[:80])
        return Selection.of_pick(pick, len(prompt.labels), "matched", answer=answer, fallbacks=fallbacks)


def choice_schema(size: int) -> type[BaseModel]:
    """Return a model with one field, ``candidate``, that admits the numbers 1 to ``size``."""
    numbers: Any = Literal[tuple(str(number) for number in range(1, size + 1))]
    return create_model(
        "Choice",
        __doc__="The chosen candidate.",
        candidate=(numbers, Field(description="number of the recommended candidate")),
    )


def numbered_prompt(prompt: SelectionPrompt) -> PromptTemplate:
    """Return the paper's prompt followed by the numbers that stand for its candidates."""
    numbered = "\n".join(f"{number}. {label}" for number, label in enumerate(prompt.labels, 1))
    text = f"{prompt.messages[-1].content}\n\nAnswer with the number of one candidate:\n{numbered}"
    # A template of one slot: braces in titles and messages must not be read as slots.
    template = PromptTemplate("{selection_request}")
    return template.partial_format(selection_request=text)
