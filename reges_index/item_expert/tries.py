"""Ways of asking an LLM for a choice, tried one after the other, and what a server has shown not to offer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from reges_index.errors import LLMServerError
from reges_index.item_expert.prompt import SelectionPrompt
from reges_index.item_expert.selection import NoChoice, Selection
from reges_index.models.api_answers import UnfitAnswer
from reges_index.models.api_faults import is_mistake, is_refused
from reges_index.models.api_refusals import RefusedRequestError

__all__ = ["FAILED", "Offer", "Tries", "Way"]

logger = logging.getLogger(__name__)

# What a way of asking raises where the server, the LLM's class or the model does not do what it takes; of the
# ValueErrors not those that `is_mistake` knows.
FAILED = (NoChoice, LLMServerError, UnfitAnswer, ValueError)


class Way(Protocol):
    """One way of asking for a choice.

    Attributes
    ----------
    name
        What reports call it.
    parses
        Whether asking includes reading what the model wrote, see `Requests.send`.
    """

    name: str
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

    def is_lacking(self, said: str) -> bool:
        """Say whether a server that refused a request lacks what this way takes, whatever the prompt.

        Parameters
        ----------
        said
            `RefusedRequestError.said`.
        """
        ...

    def humbler(self, said: str) -> Way | None:
        """Return the same way asking for less, where a server refused for having been asked for too much."""
        ...


@dataclass
class Offer:
    """What is asked of a server, and what it has turned out to offer of that.

    Attributes
    ----------
    ways
        Best first; the last one always gives a selection or an error.
    lacking
        Those of them that are not tried again.
    humbler
        What is asked in place of one that asked for too much.
    """

    ways: Sequence[Way]
    lacking: set[Way] = field(default_factory=set)
    humbler: dict[Way, Way] = field(default_factory=dict)


class Tries:
    """The ways of asking for one choice, one after the other, and what became of them.

    Parameters
    ----------
    offer
        The component's; what is learned is kept in it.
    prompt
        What is asked.
    """

    def __init__(self, offer: Offer, prompt: SelectionPrompt) -> None:
        self._offer = offer
        self._turned_down: list[Way] = []
        self._reduced: dict[Way, Way] = {}
        self._reasons: dict[str, str] = {}
        self._open: list[tuple[Way, Way]] = []  # of the component, and what is asked in its place
        for own in offer.ways:
            way = offer.humbler.get(own, own)
            if own in offer.lacking:
                self._reasons[own.name] = "given up"
            elif not way.fits(prompt):
                self._reasons[own.name] = "does not fit the prompt"
            else:
                self._open.append((own, way))

    def __iter__(self) -> Iterator[Way]:
        while self._open:
            yield self._open[0][1]

    def failed(self, error: Exception) -> None:
        """Go on to the next way, or raise where that would not help."""
        own, way = self._open[0]
        refused = is_refused(error)
        if is_mistake(error) or (isinstance(error, LLMServerError) and not refused):
            raise error
        said = error.said if isinstance(error, RefusedRequestError) else ""
        if (less := way.humbler(said)) is not None:
            self._reduced[own] = less
            self._open[0] = (own, less)
            logger.warning("%s was too much for the server; asking for less", way.name)
            return
        if len(self._open) == 1:
            raise error
        del self._open[0]
        lasting = way.is_lacking(said) if refused else isinstance(error, NoChoice) and error.lasting
        if lasting:
            self._turned_down.append(own)
        self._reasons[own.name] = _reason(error)
        logger.warning(
            "%s gave no choice (%s); asking in another way%s",
            way.name,
            error if isinstance(error, LLMServerError) else self._reasons[own.name],
            ", from now on" if lasting else " for this prompt",
        )

    def done(self, selection: Selection) -> Selection:
        """Return the selection with its fall-backs; what the server does not offer is not tried again.

        Only now, since a server may also refuse a request for what the next way has in common with it.
        """
        own, way = self._open[0]
        self._offer.lacking.update(self._turned_down)
        if self._reduced.get(own) is way:
            self._offer.humbler[own] = way
        given_up = [way.name for way in self._offer.ways if way in self._offer.lacking]
        return selection.after_fallbacks(self._reasons, given_up)


def _reason(error: Exception) -> str:
    if isinstance(error, LLMServerError):
        return error.kind
    # Of other errors the class only: what they say may hold a key.
    return str(error) if isinstance(error, (NoChoice, UnfitAnswer)) else type(error).__name__
