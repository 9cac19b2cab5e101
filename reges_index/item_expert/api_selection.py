"""Choosing with an LLM behind an API: logprobs, output limited to the candidates, else matched text."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel, Field, create_model

from reges_index.dialogue.measure import TextMeasure
from reges_index.item_expert.letters import LetterWay
from reges_index.item_expert.matching import match_answer
from reges_index.item_expert.prompt import SelectionPrompt
from reges_index.item_expert.selection import NoChoice, Selection
from reges_index.item_expert.tries import FAILED, Offer, Tries, Way
from reges_index.models.api_clients import is_openai_kind
from reges_index.models.api_refusals import says_lacking
from reges_index.models.backend import ApiBackend, chat_in_loop, text_of

__all__ = ["ApiSelector", "listed_tokens"]

logger = logging.getLogger(__name__)

# The number or letter of a candidate, its full stop, its line break, and a year that its title may need.
_MARK_TOKENS = 12
# What servers call the parts of a request for structured output when they do not have them.
_STRUCTURE = (
    *("tools", "tool", "tool_choice", "tool choice", "functions", "function", "function calling"),
    *("response_format", "json_schema", "structured output", "structured outputs"),
)


class ApiSelector:
    """LLM_G over any LlamaIndex LLM.

    Parameters
    ----------
    backend
        The LLM.
    mode
        Which ways of asking are tried, each after the one before it gave no choice, which
        `Selection.fallbacks` counts. "score" (and "reason"): a letter for each candidate and the server's
        logprobs, which gives probabilities; then "constrained": structured output whose schema admits the
        candidates' numbers and nothing else; then "generate": the paper's prompt as plain chat, its text
        matched to the candidates. What the LLM's class cannot do is left out and not counted.

    Notes
    -----
    A way that the server turns out not to offer is not tried again, but goes on being counted. A request that
    was refused for its prompt (too long, a content filter) falls back for that prompt only.
    """

    def __init__(self, backend: ApiBackend, mode: str = "score") -> None:
        self._backend = backend
        ways: list[Way] = [TextWay(backend)]
        if mode != "generate" and _gives_structure(backend.llm):
            ways.insert(0, StructuredWay(backend))
        if mode in ("score", "reason") and is_openai_kind(backend.llm):
            ways.insert(0, LetterWay(backend))
        self._offer = Offer(ways)

    def select(self, prompt: SelectionPrompt) -> Selection:
        """Choose among the prompt's candidates.

        Raises
        ------
        LLMServerError
            If the server gave no usable answer, after all retries.
        """
        tries = Tries(self._offer, prompt)
        for way in tries:
            try:
                reply = self._backend.requests.send(partial(way.ask, prompt), parses=way.parses)
                return tries.done(way.read(prompt, reply))
            except FAILED as error:
                tries.failed(error)
        raise AssertionError("plain text always gives a selection or an error")

    async def aselect(self, prompt: SelectionPrompt) -> Selection:
        """Choose without blocking the event loop; see `select`."""
        tries = Tries(self._offer, prompt)
        for way in tries:
            try:
                reply = await self._backend.requests.asend(partial(way.aask, prompt), parses=way.parses)
                return tries.done(way.read(prompt, reply))
            except FAILED as error:
                tries.failed(error)
        raise AssertionError("plain text always gives a selection or an error")


class StructuredWay:
    """Ask for a candidate's number in a schema that admits no other (function calling or JSON schema)."""

    name = "structured"
    parses = True

    def __init__(self, backend: ApiBackend) -> None:
        self._llm = backend.sender

    def fits(self, prompt: SelectionPrompt) -> bool:  # noqa: ARG002
        """Every prompt can be asked that way."""
        return True

    def ask(self, prompt: SelectionPrompt) -> Any:
        """Send the request and read the model's answer into the schema."""
        return self._llm.structured_predict(choice_schema(len(prompt.labels)), numbered_prompt(prompt))

    async def aask(self, prompt: SelectionPrompt) -> Any:
        """Send the request without blocking the event loop."""
        return await self._llm.astructured_predict(choice_schema(len(prompt.labels)), numbered_prompt(prompt))

    def read(self, prompt: SelectionPrompt, reply: Any) -> Selection:
        """Return the candidate of that number."""
        numbers = [str(number) for number in range(1, len(prompt.labels) + 1)]
        number = getattr(reply, "candidate", None)
        if number not in numbers:  # some classes give back whatever came
            raise NoChoice("the answer holds no candidate's number")
        pick = numbers.index(number)
        return Selection.of_pick(pick, len(prompt.labels), "structured", answer=prompt.labels[pick])

    def is_lacking(self, said: str) -> bool:
        """Say whether the server has no structured output."""
        return says_lacking(said, _STRUCTURE)

    def humbler(self, said: str) -> Way | None:  # noqa: ARG002
        """There is no less of it to be asked for."""
        return None


class TextWay:
    """Send the paper's prompt as it is and match the text to the candidates."""

    name = "text"
    parses = False

    def __init__(self, backend: ApiBackend) -> None:
        self._llm = backend.sender

    def fits(self, prompt: SelectionPrompt) -> bool:  # noqa: ARG002
        """Every prompt can be asked that way."""
        return True

    def ask(self, prompt: SelectionPrompt) -> Any:
        """Send the request."""
        return self._llm.chat(list(prompt.messages))

    async def aask(self, prompt: SelectionPrompt) -> Any:
        """Send the request without blocking the event loop."""
        return await chat_in_loop(self._llm, prompt.messages)

    def read(self, prompt: SelectionPrompt, reply: Any) -> Selection:
        """Return the candidate that the text names, or the retriever's first."""
        answer = text_of(reply)
        pick = match_answer(answer, prompt.labels)
        if pick is None:
            logger.warning("the answer %r names no candidate; the retriever's first stands in", answer[:80])
        return Selection.of_pick(pick, len(prompt.labels), "matched", answer=answer)

    def is_lacking(self, said: str) -> bool:  # noqa: ARG002
        """Plain text is what every server offers."""
        return False

    def humbler(self, said: str) -> Way | None:  # noqa: ARG002
        """There is no less of it to be asked for."""
        return None


def listed_tokens(titles: Sequence[str], measure: TextMeasure) -> int:
    """Return the tokens that a list of the candidates' letters or numbers adds to a prompt, or a few more."""
    return sum(measure.count(title) + _MARK_TOKENS for title in titles) + 2 * _MARK_TOKENS


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


def _gives_structure(llm: LLM) -> bool:
    # OpenAILike's should_use_structured_outputs (JSON schema) shows in no metadata.
    by_schema = getattr(llm, "_should_use_structure_outputs", None)
    return bool(llm.metadata.is_function_calling_model or (by_schema is not None and by_schema()))
