"""Choosing with an LLM behind an API: logprobs, output limited to the candidates, else matched text."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal, Protocol

from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel, Field, create_model

from reges_index.dialogue.measure import TextMeasure
from reges_index.errors import LLMServerError
from reges_index.item_expert.letters import LetterWay
from reges_index.item_expert.matching import match_answer
from reges_index.item_expert.prompt import SelectionPrompt
from reges_index.item_expert.selection import NoChoice, Selection
from reges_index.models.api_faults import is_refused
from reges_index.models.api_requests import is_openai_kind
from reges_index.models.backend import ApiBackend, chat_in_loop, text_of

__all__ = ["ApiSelector", "Way", "listed_tokens"]

logger = logging.getLogger(__name__)

# The number or letter of a candidate, its full stop, its line break, and a year that its title may need.
_MARK_TOKENS = 12
# What a way of asking raises where the server or the model does not do what it takes.
_FAILED = (NoChoice, LLMServerError, ValueError, TypeError, LookupError, AttributeError, AssertionError)


class Way(Protocol):
    """One way of asking for a choice.

    Attributes
    ----------
    parses
        Whether asking includes reading what the model wrote, see `Requests.send`.
    """

    parses: bool

    def fits(self, prompt: SelectionPrompt) -> bool:
        """Say whether this prompt can be asked that way."""
        ...

    def ask(self, prompt: SelectionPrompt) -> Any:
        """Send one request."""
        ...

    async def aask(self, prompt: SelectionPrompt) -> Any:
        """Send one request without blocking the event loop."""
        ...

    def read(self, prompt: SelectionPrompt, reply: Any) -> Selection:
        """Return the choice that a reply makes; `NoChoice` if it makes none."""
        ...


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
    A way that the server turns out not to offer is not tried again, but goes on being counted.
    """

    def __init__(self, backend: ApiBackend, mode: str = "score") -> None:
        self._backend = backend
        self._ways: list[Way] = [TextWay(backend)]
        if mode != "generate" and _gives_structure(backend.llm):
            self._ways.insert(0, StructuredWay(backend))
        if mode in ("score", "reason") and is_openai_kind(backend.llm):
            self._ways.insert(0, LetterWay(backend))
        self._lacking: set[Way] = set()

    def select(self, prompt: SelectionPrompt) -> Selection:
        """Choose among the prompt's candidates.

        Raises
        ------
        LLMServerError
            If the server gave no usable answer, after all retries.
        """
        tries = _Tries(self._ways, self._lacking, prompt)
        for way in tries:
            try:
                reply = self._backend.requests.send(partial(way.ask, prompt), parses=way.parses)
                return tries.done(way.read(prompt, reply))
            except _FAILED as error:
                tries.failed(way, error)
        raise AssertionError("plain text always gives a selection or an error")

    async def aselect(self, prompt: SelectionPrompt) -> Selection:
        """Choose without blocking the event loop; see `select`."""
        tries = _Tries(self._ways, self._lacking, prompt)
        for way in tries:
            try:
                reply = await self._backend.requests.asend(partial(way.aask, prompt), parses=way.parses)
                return tries.done(way.read(prompt, reply))
            except _FAILED as error:
                tries.failed(way, error)
        raise AssertionError("plain text always gives a selection or an error")


class _Tries:
    """The ways of asking for one choice, one after the other, and what became of them."""

    def __init__(self, ways: Sequence[Way], lacking: set[Way], prompt: SelectionPrompt) -> None:
        self._open = [way for way in ways if way not in lacking and way.fits(prompt)]
        self._lacking = lacking
        self._turned_down: list[Way] = []
        self._fallbacks = len(ways) - len(self._open)

    def __iter__(self) -> Iterator[Way]:
        return iter(self._open)

    def failed(self, way: Way, error: Exception) -> None:
        """Go on to the next way, or raise where that would not help."""
        if way is self._open[-1] or (isinstance(error, LLMServerError) and not is_refused(error)):
            raise error
        self._fallbacks += 1
        if is_refused(error) or (isinstance(error, NoChoice) and error.lasting):
            self._turned_down.append(way)
        told = error if isinstance(error, (NoChoice, LLMServerError)) else type(error).__name__
        logger.warning("%s gave no choice (%s); asking in another way", type(way).__name__, told)

    def done(self, selection: Selection) -> Selection:
        """Return the selection with its fall-backs; what the server does not offer is not tried again.

        Only now, since a server may also refuse a request for what the next way has in common with it.
        """
        self._lacking.update(self._turned_down)
        return selection.after_fallbacks(self._fallbacks)


class StructuredWay:
    """Ask for a candidate's number in a schema that admits no other (function calling or JSON schema)."""

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
        pick = int(reply.candidate) - 1  # the schema admits "1" to "k" only
        return Selection.of_pick(pick, len(prompt.labels), "structured", answer=prompt.labels[pick])


class TextWay:
    """Send the paper's prompt as it is and match the text to the candidates."""

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
