"""Candidate probabilities from a server's logprobs: one token is asked for, the letter of a candidate."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, LogProb

from reges_index.item_expert.prompt import SelectionPrompt
from reges_index.item_expert.selection import NoChoice, Selection
from reges_index.models.api_requests import single_attempt
from reges_index.models.backend import ApiBackend, chat_in_loop

__all__ = ["LETTERS", "LetterWay", "read_letters"]

# Single characters, because a tokenizer may split "12" into two tokens, and only one is asked for.
LETTERS = string.ascii_uppercase + string.ascii_lowercase
# As many as OpenAI and, by default, vLLM give.
_TOP = 20
# How tokenizers write a space before a word, where a server does not decode it.
_SPACES = " \t\r\n\u0120\u2581"


class LetterWay:
    """Ask for the letter of one candidate and read the probabilities of all letters.

    One request of one token. Only for LLMs of OpenAI's kind: other LlamaIndex classes do not agree on how
    to ask for logprobs.
    """

    parses = False

    def __init__(self, backend: ApiBackend) -> None:
        self._llm: Any = single_attempt(backend.llm, max_tokens=1, logprobs=True, top_logprobs=_TOP)
        self._is_chat = bool(backend.llm.metadata.is_chat_model)

    def fits(self, prompt: SelectionPrompt) -> bool:
        """Say whether there is a letter for each candidate (52 at most)."""
        return len(prompt.labels) <= len(LETTERS)

    def ask(self, prompt: SelectionPrompt) -> Any:
        """Send the request."""
        messages = lettered(prompt)
        if self._is_chat:
            return self._llm.chat(messages)
        # Not chat(), which for models without a chat endpoint loses the logprobs on the way.
        return self._llm.complete(self._llm.messages_to_prompt(messages), formatted=True)

    async def aask(self, prompt: SelectionPrompt) -> Any:
        """Send the request without blocking the event loop."""
        messages = lettered(prompt)
        if self._is_chat:
            return await chat_in_loop(self._llm, messages)
        return await self._llm.acomplete(self._llm.messages_to_prompt(messages), formatted=True)

    def read(self, prompt: SelectionPrompt, reply: Any) -> Selection:
        """Return the choice that the first token's logprobs stand for.

        Raises
        ------
        NoChoice
            If there are none, or no letter is among them.
        """
        if not reply.logprobs or not reply.logprobs[0]:
            raise NoChoice("the server gives no logprobs", lasting=True)
        return read_letters(reply.logprobs[0], len(prompt.labels))


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
    probabilities = tuple((chance or share) / total for chance in told)
    return Selection(
        order=tuple(sorted(range(size), key=lambda place: (-probabilities[place], place))),
        outcome="logprobs",
        probabilities=probabilities,
        logprobs=tuple(math.log(chance) if chance else None for chance in told),
        answer=max(chances, key=lambda entry: entry[1])[0],
        details={"letter_mass": min(1.0, mass), "candidates_unlisted": unlisted},
    )
