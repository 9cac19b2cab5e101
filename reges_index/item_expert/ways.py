"""One choice that is asked for, and the ways of asking a model: scores, letters, structured output, text."""

from __future__ import annotations

import logging
import math
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from llama_index.core.base.llms.types import ChatMessage, LogProb
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel, Field, WithJsonSchema, create_model

from reges_index.catalog.item import Item
from reges_index.dialogue.measure import TextMeasure
from reges_index.driver import Do, Work, off_loop
from reges_index.item_expert.answers import ReadRanking, match_answer, read_list, read_ranking
from reges_index.item_expert.prior import softmax
from reges_index.item_expert.prompt import SelectionPrompt
from reges_index.item_expert.selection import NoChoice, Selection
from reges_index.models.api import single_attempt
from reges_index.models.backend import ApiBackend, Backend, LocalBackend, chat_in_loop
from reges_index.models.text import read_text

logger = logging.getLogger(__name__)

PromptKind: TypeAlias = Literal["select", "rank"]
"""One name is asked for, or a ranking."""

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


class Question:
    """Candidates for one dialogue, and the prompts about them, which are built when they are needed.

    Parameters
    ----------
    items
        The candidates, in the order in which the model sees them.
    build
        Makes the prompt of a kind for some candidates, and for so many of the best of them.
    best
        How many a ranking is to name.
    """

    def __init__(
        self,
        items: Sequence[Item],
        build: Callable[[Sequence[Item], PromptKind, int], SelectionPrompt],
        best: int = 1,
    ) -> None:
        self.items = items
        self.best = best
        self._build = build
        self._built: dict[PromptKind, SelectionPrompt] = {}
        self._reasoned: tuple[str, bool] = ("", False)
        self.asked: list[SelectionPrompt] = []
        """The prompts that were used so far, here and for parts."""

    def __len__(self) -> int:
        """Return the number of candidates."""
        return len(self.items)

    def part(self, indices: Sequence[int], best: int | None = None) -> Question:
        """Return the question about some of the candidates, in this order."""
        part = Question([self.items[index] for index in indices], self._build, best or self.best)
        part._reasoned, part.asked = self._reasoned, self.asked
        return part

    def prompt(self, kind: PromptKind) -> Work[SelectionPrompt]:
        """Return the prompt, which is built off the event loop: fifty abstracts take a while to tokenize."""
        if kind not in self._built:
            built: SelectionPrompt = yield off_loop(self._build, self.items, kind, min(self.best, len(self)))
            text, spoken = self._reasoned
            self._built[kind] = built.after(text, spoken=spoken)
        self.asked.append(self._built[kind])
        return self._built[kind]

    def after(self, reasoning: str, *, spoken: bool) -> None:
        """Ask from now on behind this reasoning; see `SelectionPrompt.after`."""
        self._reasoned = (reasoning, spoken)
        self._built.clear()


@dataclass(frozen=True)
class Way:
    """One way of asking a model for a choice.

    Attributes
    ----------
    name
        What reports call it.
    ask
        Asks, and reads the answer; `NoChoice` where that makes no choice and another way may make one.
    most
        Of how many candidates it can ask; None for any number.
    """

    name: str
    ask: Callable[[Question], Work[Selection]]
    most: int | None = None


# -- models in this process ----------------------------------------------------------------------------------


def scores(backend: LocalBackend, length_penalty: float, question: Question) -> Work[Selection]:
    """Return every candidate's probability, from one forward of the prompt and one of the trie of labels.

    Parameters
    ----------
    length_penalty
        Log-probabilities are divided by (tokens of the label) ** length_penalty before they are compared;
        0 is the model's own probability, 1 the mean over the tokens (arXiv 1609.08144, section 7).
    """
    prompt = yield from question.prompt("select")
    labels = list(dict.fromkeys(prompt.labels))
    found = yield off_loop(backend.score, prompt.messages, labels, prompt.answer_start)
    chances = softmax([score.logprob / score.num_tokens**length_penalty for score in found])
    # Candidates that bear the same label share its probability.
    share = {name: p / prompt.labels.count(name) for name, p in zip(labels, chances, strict=True)}
    logprob = {name: score.logprob for name, score in zip(labels, found, strict=True)}
    return Selection.of_probabilities(
        [share[name] for name in prompt.labels],
        "scored",
        logprobs=tuple(logprob[name] for name in prompt.labels),
    )


def constrained(backend: LocalBackend, question: Question) -> Work[Selection]:
    """Pick one by greedy decoding within the trie of labels."""
    prompt = yield from question.prompt("select")
    labels = list(dict.fromkeys(prompt.labels))
    chosen: int = yield off_loop(backend.lm.choose, prompt.messages, labels, adapter=backend.adapter)
    pick = prompt.labels.index(labels[chosen])
    return Selection.of_pick(pick, len(question), "constrained", answer=labels[chosen])


# -- text, of any model ------------------------------------------------------------------------------------


def text_pick(backend: Backend, seed: int, question: Question) -> Work[Selection]:
    """Ask with the paper's prompt as it is, and match the text; else the retriever's order stands."""
    prompt = yield from question.prompt("select")
    longest = max(backend.measure.count(label) for label in prompt.labels)
    ((answer,),) = yield from backend.written(
        [prompt.messages], max_new_tokens=longest + 8, temperature=_PAPER_TEMPERATURE, seed=seed
    )
    pick = match_answer(answer, prompt.labels)
    if pick is None:
        return _of_nothing(answer, question)
    return Selection.of_pick(pick, len(question), "matched", answer=answer)


def text_ranking(backend: Backend, question: Question) -> Work[Selection]:
    """Ask with the ranking prompt, and read numbers or names; else the retriever's order stands."""
    prompt = yield from question.prompt("rank")
    ((answer,),) = yield from backend.written(
        [prompt.messages], max_new_tokens=ranking_tokens(len(question)), temperature=0.0
    )
    read = read_ranking(answer, prompt.labels)
    if not read.ranked:
        return _of_nothing(answer, question, **_counts(read))
    return Selection.of_ranking(read.ranked, len(question), answer=answer, **_counts(read))


def _of_nothing(answer: str, question: Question, **details: Any) -> Selection:
    thinking = {"thinking_unclosed": True} if read_text(answer).unclosed else {}
    advice = "; a model that thinks first needs more max_tokens" if thinking or not answer.strip() else ""
    logger.warning("the answer %r names no candidate; the retriever's order stands%s", answer[:80], advice)
    return Selection.nothing(len(question), answer=answer, **details, **thinking)


def _counts(read: ReadRanking) -> dict[str, int]:
    return {"ranked": len(read.ranked), "numbers_outside": read.outside, "numbers_twice": read.twice}


# -- structured output of an API ---------------------------------------------------------------------------


def gives_structure(llm: LLM) -> bool:
    """Say whether an LLM's class can ask for structured output (function calling or a JSON schema)."""
    # OpenAILike's should_use_structured_outputs (JSON schema) shows in no metadata.
    by_schema = getattr(llm, "_should_use_structure_outputs", None)
    return bool(llm.metadata.is_function_calling_model or (by_schema is not None and by_schema()))


def structured_pick(backend: ApiBackend, question: Question) -> Work[Selection]:
    """Ask for a candidate's number in a schema that admits no other."""
    prompt = yield from question.prompt("select")
    numbers = _numbers(question)
    listed = "\n".join(f"{number}. {label}" for number, label in zip(numbers, prompt.labels, strict=True))
    text = f"{prompt.messages[-1].content}\n\nAnswer with the number of one candidate:\n{listed}"
    only: Any = Literal[tuple(numbers)]
    schema = create_model(
        "Choice",
        __doc__="The chosen candidate.",
        candidate=(only, Field(description="number of the recommended candidate")),
    )
    reply = yield from _structured(backend, schema, text)
    number = getattr(reply, "candidate", None)
    if number not in numbers:  # some classes give back whatever came
        raise NoChoice("the answer holds no candidate's number")
    pick = numbers.index(number)
    return Selection.of_pick(pick, len(question), "structured", answer=prompt.labels[pick])


def structured_ranking(backend: ApiBackend, question: Question) -> Work[Selection]:
    """Ask for a list of candidates' numbers, each from an enum of all numbers."""
    prompt = yield from question.prompt("rank")
    # Told to the model as an enum, and read leniently: one number too many is no reason to lose a ranking.
    entries = {"type": "string", "enum": _numbers(question)}
    numbers: Any = Annotated[list[Any], WithJsonSchema({"type": "array", "items": entries})]
    schema = create_model(
        "Ranking",
        __doc__="The best candidates.",
        ranking=(numbers, Field(description="numbers of the best candidates, the best one first")),
    )
    reply = yield from _structured(backend, schema, str(prompt.messages[-1].content))
    listed = getattr(reply, "ranking", None)
    read = read_list(listed if isinstance(listed, (list, tuple)) else (), prompt.labels)
    if not read.ranked:
        raise NoChoice("the answer holds no candidate's number")
    answer = ", ".join(map(str, listed or ()))
    return Selection.of_ranking(read.ranked, len(question), answer=answer, **_counts(read))


def _structured(backend: ApiBackend, schema: type[BaseModel], text: str) -> Work[Any]:
    # A template of one slot: braces in titles and messages must not be read as slots.
    template = PromptTemplate("{selection_request}").partial_format(selection_request=text)
    llm = backend.sender
    ask = Do(
        lambda: llm.structured_predict(schema, template), lambda: llm.astructured_predict(schema, template)
    )
    return (yield from backend.sending(ask, parses=True))


def _numbers(question: Question) -> list[str]:
    return [str(number) for number in range(1, len(question) + 1)]


# -- logprobs of an API ------------------------------------------------------------------------------------


def for_one_letter(llm: LLM) -> LLM:
    """Return what is asked for a letter: one for all turns, so that these share its connections."""
    return single_attempt(llm, max_tokens=1, logprobs=True, top_logprobs=_TOP)


def letters(backend: ApiBackend, asked: LLM, min_mass: float, question: Question) -> Work[Selection]:
    """Ask for the letter of one candidate, and take the probabilities of all from the server's logprobs.

    One request of one token; ``letter_mass`` is in the details. Only for LLMs of OpenAI's kind: other
    LlamaIndex classes do not agree on how to ask for logprobs.

    Parameters
    ----------
    asked
        See `for_one_letter`.
    min_mass
        The least probability that the first token is a candidate's letter at all. Below it the letters'
        probabilities are noise (a model that thinks first begins with ``<think>``), and this is no choice.
    """
    prompt = yield from question.prompt("select")
    llm: Any = asked
    messages = lettered(prompt)
    if backend.llm.metadata.is_chat_model:
        step = Do(lambda: llm.chat(messages), lambda: chat_in_loop(llm, messages))
    else:  # not chat(), which for models without a chat endpoint loses the logprobs on the way
        text = llm.messages_to_prompt(messages)
        step = Do(lambda: llm.complete(text, formatted=True), lambda: llm.acomplete(text, formatted=True))
    reply = yield from backend.sending(step)
    if not reply.logprobs or not reply.logprobs[0]:
        said = reply.message.content if hasattr(reply, "message") else reply.text
        # An empty answer, as of a content filter, has no token that could have any.
        raise NoChoice("the server gives no logprobs", lasting=bool(said))
    selection = read_letters(reply.logprobs[0], len(question))
    mass = selection.details["letter_mass"]
    if mass < min_mass:
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
