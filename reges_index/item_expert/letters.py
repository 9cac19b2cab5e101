"""Candidate probabilities from a server's logprobs: one token is asked for, the letter of a candidate."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, LogProb

from reges_index.item_expert.prompt import SelectionPrompt
from reges_index.item_expert.selection import NoChoice, Selection
from reges_index.models.api_clients import single_attempt
from reges_index.models.api_refusals import says_lacking, says_too_many
from reges_index.models.backend import ApiBackend, chat_in_loop

__all__ = ["LETTERS", "LetterWay", "read_letters"]

# Single characters, because a tokenizer may split "12" into two tokens, and only one is asked for.
LETTERS = string.ascii_uppercase + string.ascii_lowercase
# As many as OpenAI and, by default, vLLM give; and as few as servers limit it to that give any.
_TOP, _FEWEST = 20, 5
_NAMES = ("logprobs", "top_logprobs")
# How tokenizers write a space before a word, where a server does not decode it.
_SPACES = " \t\r\n\u0120\u2581"


class LetterWay:
    """Ask for the letter of one candidate and read the probabilities of all letters.

    One request of one token. Only for LLMs of OpenAI's kind: other LlamaIndex classes do not agree on how
    to ask for logprobs.

    Parameters
    ----------
    backend
        The LLM.
    top
        How many of the likeliest tokens are asked for.
    """

    name = "logprobs"
    parses = False

    def __init__(self, backend: ApiBackend, top: int = _TOP) -> None:
        self._backend = backend
        self._top = top
        self._llm: Any = single_attempt(backend.llm, max_tokens=1, logprobs=True, top_logprobs=top)
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
        """Return the choice that the first token's logprobs stand for; ``top_logprobs`` in its details.

        Raises
        ------
        NoChoice
            If there are none, or no letter is among them.
        """
        if not reply.logprobs or not reply.logprobs[0]:
            # An empty answer, as of a content filter, has no token that could have any.
            raise NoChoice("the server gives no logprobs", lasting=bool(_text(reply)))
        selection = read_letters(reply.logprobs[0], len(prompt.labels))
        return replace(selection, details={**selection.details, "top_logprobs": self._top})

    def is_lacking(self, said: str) -> bool:
        """Say whether the server has no logprobs, or fewer than the fewest that are asked for."""
        if says_lacking(said, (*_NAMES, "max_tokens")):
            return True
        return self._top <= _FEWEST and says_too_many(said, _NAMES)

    def humbler(self, said: str) -> LetterWay | None:
        """Return the same way with as few tokens as any server gives, where these were too many."""
        if self._top <= _FEWEST or not says_too_many(said, _NAMES):
            return None
        return LetterWay(self._backend, _FEWEST)


def _text(reply: Any) -> str:
    return str((reply.message.content if hasattr(reply, "message") else reply.text) or "")


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
