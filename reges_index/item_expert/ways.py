"""Ways of asking a model for its choice: scores, letters, structured output, text; one or a ranking."""

from __future__ import annotations

import logging
import math
import string
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from llama_index.core.base.llms.types import ChatMessage, LogProb
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel, Field, WithJsonSchema, create_model

from reges_index.dialogue.measure import TextMeasure
from reges_index.driver import Do, Work, off_loop
from reges_index.item_expert.answers import ReadRanking, match_answer, read_list, read_ranking
from reges_index.item_expert.prompt import SelectionPrompt
from reges_index.item_expert.question import Question
from reges_index.item_expert.selection import NoChoice, Selection, share_among_equals, softmax
from reges_index.models.api_clients import single_attempt
from reges_index.models.backend import ApiBackend, Backend, LocalBackend, chat_in_loop
from reges_index.models.text import read_text

__all__ = [
    "LETTERS",
    "ConstrainedWay",
    "LetterWay",
    "ScoreWay",
    "StructuredPickWay",
    "StructuredRankWay",
    "TextPickWay",
    "TextRankWay",
    "gives_structure",
    "listed_tokens",
    "ranking_tokens",
    "read_letters",
]

logger = logging.getLogger(__name__)

# Single characters, because a tokenizer may split "12" into two tokens, and only one is asked for.
LETTERS = string.ascii_uppercase + string.ascii_lowercase
# As many of the likeliest tokens as OpenAI and, by default, vLLM give.
_TOP = 20
# How tokenizers write a space before a word, where a server does not decode it.
_SPACES = " \t\r\n\u0120\u2581"
# The number or letter of a candidate, its full stop, its line break, and a year that its title may need.
_MARK_TOKENS = 12
# A number of a ranking with its comma, and what a model may put around all of them.
_NUMBER_TOKENS, _AROUND_NUMBERS = 5, 32
# Section 3.3: "we set the decoding temperature to 0.1".
_PAPER_TEMPERATURE = 0.1


def listed_tokens(titles: Sequence[str], measure: TextMeasure) -> int:
    """Return the tokens that a list of the candidates' letters or numbers adds to a prompt, or a few more."""
    return sum(measure.count(title) + _MARK_TOKENS for title in titles) + 2 * _MARK_TOKENS


def ranking_tokens(count: int) -> int:
    """Return how many tokens an answer with the numbers of so many candidates may take."""
    return count * _NUMBER_TOKENS + _AROUND_NUMBERS


class _AnyNumber:
    """A way of asking that any number of candidates fits into."""

    def fits(self, size: int) -> bool:  # noqa: ARG002
        """Say that any number of candidates can be asked about."""
        return True


# -- models in this process ----------------------------------------------------------------------------------


class ScoreWay(_AnyNumber):
    """Every candidate's probability, from one forward of the prompt and one of the trie of labels.

    Parameters
    ----------
    length_penalty
        Log-probabilities are divided by (tokens of the label) ** length_penalty before they are compared;
        0 is the model's own probability, 1 the mean over the tokens (arXiv 1609.08144, section 7).
    """

    name = "scores"

    def __init__(self, backend: LocalBackend, length_penalty: float = 0.0) -> None:
        self._backend = backend
        self.length_penalty = length_penalty

    def ask(self, question: Question) -> Work[Selection]:
        """Score the candidates' labels as answers."""
        prompt = yield from question.prompt("select")
        selection: Selection = yield off_loop(self._score, prompt)
        return selection

    def _score(self, prompt: SelectionPrompt) -> Selection:
        labels = list(dict.fromkeys(prompt.labels))
        scores = self._backend.score(prompt.messages, labels, prompt.answer_start)
        strength = [score.logprob / score.num_tokens**self.length_penalty for score in scores]
        by_label = dict(zip(labels, softmax(strength), strict=True))
        logprob = {label: score.logprob for label, score in zip(labels, scores, strict=True)}
        return Selection.of_probabilities(
            share_among_equals(prompt.labels, [by_label[label] for label in prompt.labels]),
            "scored",
            logprobs=tuple(logprob[label] for label in prompt.labels),
        )


class ConstrainedWay(_AnyNumber):
    """Greedy decoding within the trie of labels: one pick."""

    name = "constrained"

    def __init__(self, backend: LocalBackend) -> None:
        self._backend = backend

    def ask(self, question: Question) -> Work[Selection]:
        """Decode one of the labels."""
        prompt = yield from question.prompt("select")
        labels = list(dict.fromkeys(prompt.labels))
        backend = self._backend
        chosen: int = yield off_loop(backend.lm.choose, prompt.messages, labels, adapter=backend.adapter)
        pick = prompt.labels.index(labels[chosen])
        return Selection.of_pick(pick, len(question), "constrained", answer=labels[chosen])


# -- text, of any model ------------------------------------------------------------------------------------


class TextPickWay(_AnyNumber):
    """The paper's prompt as it is, with the text matched to the candidates."""

    name = "text"

    def __init__(self, backend: Backend, seed: int = 0) -> None:
        self._backend = backend
        self._seed = seed

    def ask(self, question: Question) -> Work[Selection]:
        """Return the candidate that the text names, or the retriever's order."""
        prompt = yield from question.prompt("select")
        longest = max(self._backend.measure.count(label) for label in prompt.labels)
        answer = yield from self._backend.write(
            prompt.messages,
            max_new_tokens=longest + 8,
            temperature=_PAPER_TEMPERATURE,
            seed=self._seed,
        )
        pick = match_answer(answer, prompt.labels)
        if pick is None:
            logger.warning("the answer %r names no candidate; the retriever's order stands", answer[:80])
            return Selection.nothing(len(question), answer=answer, **_thinking(answer))
        return Selection.of_pick(pick, len(question), "matched", answer=answer)


class TextRankWay(_AnyNumber):
    """The ranking prompt, with the numbers or names read from the text."""

    name = "text"

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def ask(self, question: Question) -> Work[Selection]:
        """Return the ranking that the text lists, or the retriever's order."""
        prompt = yield from question.prompt("rank")
        answer = yield from self._backend.write(
            prompt.messages, max_new_tokens=ranking_tokens(len(question)), temperature=0.0
        )
        read = read_ranking(answer, prompt.labels)
        if not read.ranked:
            logger.warning("the answer %r ranks no candidate; the retriever's order stands", answer[:80])
        return _of_read(read, len(question), answer, **_thinking(answer))


def _thinking(answer: str) -> dict[str, Any]:
    return {"thinking_unclosed": True} if read_text(answer).unclosed else {}


def _of_read(read: ReadRanking, size: int, answer: str, **details: Any) -> Selection:
    return Selection.of_ranking(
        read.ranked,
        size,
        answer=answer,
        ranked=len(read.ranked),
        numbers_outside=read.outside,
        numbers_twice=read.twice,
        **details,
    )


# -- structured output of an API ---------------------------------------------------------------------------


def gives_structure(llm: LLM) -> bool:
    """Say whether an LLM's class can ask for structured output (function calling or a JSON schema)."""
    # OpenAILike's should_use_structured_outputs (JSON schema) shows in no metadata.
    by_schema = getattr(llm, "_should_use_structure_outputs", None)
    return bool(llm.metadata.is_function_calling_model or (by_schema is not None and by_schema()))


class StructuredPickWay(_AnyNumber):
    """A candidate's number in a schema that admits no other."""

    name = "structured"

    def __init__(self, backend: ApiBackend) -> None:
        self._backend = backend

    def ask(self, question: Question) -> Work[Selection]:
        """Return the candidate of the number that comes."""
        prompt = yield from question.prompt("select")
        numbered = "\n".join(f"{number}. {label}" for number, label in enumerate(prompt.labels, 1))
        text = f"{prompt.messages[-1].content}\n\nAnswer with the number of one candidate:\n{numbered}"
        numbers = _numbers(len(question))
        only: Any = Literal[tuple(numbers)]
        schema = create_model(
            "Choice",
            __doc__="The chosen candidate.",
            candidate=(only, Field(description="number of the recommended candidate")),
        )
        reply = yield from _structured(self._backend, schema, text)
        number = getattr(reply, "candidate", None)
        if number not in numbers:  # some classes give back whatever came
            raise NoChoice("the answer holds no candidate's number")
        pick = numbers.index(number)
        return Selection.of_pick(pick, len(question), "structured", answer=prompt.labels[pick])


class StructuredRankWay(_AnyNumber):
    """A list of candidates' numbers, each from an enum of all numbers."""

    name = "structured"

    def __init__(self, backend: ApiBackend) -> None:
        self._backend = backend

    def ask(self, question: Question) -> Work[Selection]:
        """Return the ranking of the numbers that come."""
        prompt = yield from question.prompt("rank")
        # Told to the model as an enum, and read leniently: one number too many is no reason to lose a
        # ranking.
        items = {"type": "string", "enum": _numbers(len(question))}
        numbers: Any = Annotated[list[Any], WithJsonSchema({"type": "array", "items": items})]
        schema = create_model(
            "Ranking",
            __doc__="The best candidates.",
            ranking=(numbers, Field(description="numbers of the best candidates, the best one first")),
        )
        reply = yield from _structured(self._backend, schema, str(prompt.messages[-1].content))
        listed = getattr(reply, "ranking", None)
        if not isinstance(listed, (list, tuple)):
            raise NoChoice("the answer holds no list of candidates")
        answer = ", ".join(map(str, listed))
        read = read_list(listed, prompt.labels)
        if not read.ranked:
            raise NoChoice("the answer holds no candidate's number")
        return _of_read(read, len(question), answer)


def _structured(backend: ApiBackend, schema: type[BaseModel], text: str) -> Work[Any]:
    # A template of one slot: braces in titles and messages must not be read as slots.
    template = PromptTemplate("{selection_request}").partial_format(selection_request=text)
    llm = backend.sender
    ask = Do(
        lambda: llm.structured_predict(schema, template), lambda: llm.astructured_predict(schema, template)
    )
    return (yield from backend.requests.plan(ask, parses=True))


def _numbers(size: int) -> list[str]:
    return [str(number) for number in range(1, size + 1)]


# -- logprobs of an API ------------------------------------------------------------------------------------


class LetterWay:
    """The letter of one candidate, with the probabilities of all letters from the server's logprobs.

    One request of one token. Only for LLMs of OpenAI's kind: other LlamaIndex classes do not agree on how
    to ask for logprobs.

    Parameters
    ----------
    backend
        The LLM.
    min_mass
        The least probability that the first token is a candidate's letter at all. Below it the letters'
        probabilities are noise (a model that thinks first begins with ``<think>``), and this is no choice.
    """

    name = "logprobs"

    def __init__(self, backend: ApiBackend, min_mass: float) -> None:
        self._backend = backend
        self._min_mass = min_mass
        # One for all turns, so that these share its connections.
        self._llm: Any = single_attempt(backend.llm, max_tokens=1, logprobs=True, top_logprobs=_TOP)
        self._is_chat = bool(backend.llm.metadata.is_chat_model)

    def fits(self, size: int) -> bool:
        """Say whether there is a letter for each candidate (52 at most)."""
        return size <= len(LETTERS)

    def ask(self, question: Question) -> Work[Selection]:
        """Return the choice that the first token's logprobs stand for; ``letter_mass`` in its details.

        Raises
        ------
        NoChoice
            If there are none, no letter is among them, or the letters have less than the least mass.
        """
        prompt = yield from question.prompt("select")
        llm, messages = self._llm, lettered(prompt)
        if self._is_chat:
            step = Do(lambda: llm.chat(messages), lambda: chat_in_loop(llm, messages))
        else:  # not chat(), which for models without a chat endpoint loses the logprobs on the way
            text = llm.messages_to_prompt(messages)
            step = Do(lambda: llm.complete(text, formatted=True), lambda: llm.acomplete(text, formatted=True))
        reply = yield from self._backend.requests.plan(step)
        if not reply.logprobs or not reply.logprobs[0]:
            said = reply.message.content if hasattr(reply, "message") else reply.text
            # An empty answer, as of a content filter, has no token that could have any.
            raise NoChoice("the server gives no logprobs", lasting=bool(said))
        selection = read_letters(reply.logprobs[0], len(question))
        mass = selection.details["letter_mass"]
        if mass < self._min_mass:
            raise NoChoice(f"the candidates' letters have {mass:.2g} of the probability only")
        return selection


def lettered(prompt: SelectionPrompt) -> list[ChatMessage]:
    """Return the paper's prompt followed by the letters that stand for its candidates."""
    listed = "\n".join(f"{mark}. {label}" for mark, label in zip(LETTERS, prompt.labels, strict=False))
    *before, last = prompt.messages
    text = f"{last.content}\n\nInstead of a name, answer with the letter of one candidate:\n{listed}"
    return [*before, ChatMessage(role=last.role, content=text)]


def read_letters(top: Sequence[LogProb], size: int) -> Selection:
    """Turn the likeliest first tokens into a probability for each candidate.

    The letters' probabilities, divided by their sum. A letter that is not among the tokens given is no
    likelier than the last of them, and all such letters together no likelier than what is left of 1: each
    gets an equal share of that, and no log-probability.

    Parameters
    ----------
    top
        Tokens with their log-probabilities in nats; "A" and " A" count together.
    size
        Number of candidates; the first has the letter A.

    Returns
    -------
    Selection
        With ``details``: ``letter_mass``, the probability that the model's first token is a candidate's
        letter at all, and ``candidates_unlisted``, how many letters were not among the tokens.

    Raises
    ------
    NoChoice
        If no candidate's letter is among the tokens.
    """
    places = {mark: place for place, mark in enumerate(LETTERS[:size])}
    told = [0.0] * size
    # Servers write an impossible token as -9999 or so, which says no more than leaving it out.
    chances = [
        (entry.token.strip(_SPACES), chance)
        for entry in top
        if not math.isnan(entry.logprob) and (chance := math.exp(min(0.0, entry.logprob))) > 0
    ]
    for mark, chance in chances:
        if mark in places:
            told[places[mark]] += chance
    mass = math.fsum(told)
    if mass <= 0:
        raise NoChoice("no candidate's letter is among the likeliest tokens")
    unlisted = told.count(0.0)
    share = 0.0
    if unlisted:
        left = max(0.0, 1.0 - math.fsum(chance for _, chance in chances))
        share = min(min(chance for _, chance in chances), left / unlisted)
    total = mass + unlisted * share
    return Selection.of_probabilities(
        [(chance or share) / total for chance in told],
        "logprobs",
        logprobs=tuple(math.log(chance) if chance else None for chance in told),
        answer=max(chances, key=lambda entry: entry[1])[0],
        details={"letter_mass": min(1.0, mass), "candidates_unlisted": unlisted},
    )
