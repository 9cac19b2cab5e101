"""What happens on the page: a message, a reset, another catalog. Values in, values of components out."""

from __future__ import annotations

import logging
import traceback
from collections.abc import AsyncGenerator, Sequence
from typing import Any, NamedTuple

import gradio as gr

from reges_index.errors import InputError, ReGeSError
from reges_index.ui.choices import Choices
from reges_index.ui.html import (
    candidates_html,
    card_html,
    header_html,
    message_html,
    notice_html,
    query_html,
    status_html,
)
from reges_index.ui.session import Exchange, Session, Sessions
from reges_index.ui.shelf import Shelf

logger = logging.getLogger(__name__)

_THINKING = "…"
# Innermost calls that the log names of each error.
_FRAMES = 12


class Panels(NamedTuple):
    """Values of the components that a turn changes, in the order of its outputs."""

    chat: Any
    box: Any
    query: Any
    candidates: Any
    notice: dict[str, Any]
    status: str


class Turns:
    """Answers the page's events, with a session for each page; parameters are those of `build_ui`."""

    def __init__(
        self,
        shelf: Shelf,
        sessions: Sessions,
        *,
        title: str,
        top_k: int,
        examples: Sequence[str] | None = None,
    ) -> None:
        self._shelf, self._sessions = shelf, sessions
        self._title, self._top_k, self._examples = title, top_k, examples

    async def send(
        self,
        message: str,
        catalog: str,
        genres: Sequence[str],
        year_from: str,
        year_to: str,
        exclude_mentioned: bool,
        request: gr.Request,
    ) -> AsyncGenerator[Panels, None]:
        """Answer a message as it is written; an error is shown and leaves the conversation as it was."""
        session = self._session(request)
        if session.is_answering:
            yield self._busy(message)
            return
        try:
            if not message.strip():
                raise InputError("the message is empty", hint="say what you are looking for")
            choices = Choices(catalog, tuple(genres), _year(year_from), _year(year_to), exclude_mentioned)
            before = list(session.exchanges)
            yield self._panels([*before, Exchange(message)], is_answering=True)
            async for exchange in session.answer(message, choices):
                yield self._panels([*before, exchange], box=None, is_answering=True)
            yield self._panels(session.exchanges, box=None)
        except ReGeSError as error:
            yield self._panels(session.exchanges, box=message, error=error)
        except Exception as error:
            # For the page to go on. What happened, and where, is for the log; what it says is for nobody.
            logger.error("a turn of the web chat failed:\n%s", _trail(error))
            said = ReGeSError(
                f"the turn failed ({type(error).__name__})", hint="try again; the server's log says where"
            )
            yield self._panels(session.exchanges, box=message, error=said)

    def reset(self, request: gr.Request) -> Panels:
        """Forget the conversation; what is being written stays."""
        self._session(request).reset()
        return self._panels([], box=None)

    def undo(self, request: gr.Request) -> Panels:
        """Take back the last message and the answer to it; the message stands in the box again."""
        session = self._session(request)
        if session.is_answering:
            return self._busy()
        message = session.undo()
        return self._panels(session.exchanges, box=message)

    def facets(self, catalog: str) -> tuple[Any, ...]:
        """Return what depends on the catalog: the page's head, the filters, what an empty chat offers."""
        facets = self._shelf.facets(catalog)
        first, last = (("" if year is None else str(year)) for year in (facets.first_year, facets.last_year))
        return (
            header_html(self._title, catalog, facets),
            gr.update(choices=list(facets.genres), visible=bool(facets.genres)),
            gr.update(placeholder=first, visible=bool(first)),
            gr.update(placeholder=last, visible=bool(last)),
            gr.update(examples=[{"text": text} for text in self._offers(catalog)]),
        )

    def _offers(self, catalog: str) -> Sequence[str]:
        return self._shelf.examples(catalog) if self._examples is None else self._examples

    def switch(self, catalog: str, request: gr.Request) -> tuple[Any, ...]:
        """Start a new conversation with another catalog, without filters."""
        header, genres, year_from, year_to, offers = self.facets(catalog)
        cleared = {**genres, "value": []}, {**year_from, "value": ""}, {**year_to, "value": ""}
        panels = self.reset(request)
        return (*panels._replace(chat={**offers, "value": panels.chat}), header, *cleared)

    def _busy(self, message: str | None = None) -> Panels:
        """Say that the turn under way comes first; what it writes into the page stays."""
        error = InputError("your last message is still being answered", hint="try again when it is")
        panels = self._panels([], box=message, error=error, is_answering=True)
        return panels._replace(chat=gr.skip(), query=gr.skip(), candidates=gr.skip())

    def _session(self, request: gr.Request) -> Session:
        if not request.session_hash:
            raise InputError("the request names no session", hint="use the page, or Gradio's client")
        return self._sessions.of(request.session_hash)

    def _panels(
        self,
        exchanges: Sequence[Exchange],
        *,
        box: str | None = "",
        error: ReGeSError | None = None,
        is_answering: bool = False,
    ) -> Panels:
        last = next((e.found for e in reversed(exchanges) if e.found is not None), None)
        return Panels(
            chat=[message for exchange in exchanges for message in _messages(exchange)],
            box=gr.skip() if box is None else box,  # it may hold the next message already
            query=query_html(last),
            candidates=candidates_html(last, self._top_k),
            notice=gr.update(value=notice_html(error), visible=error is not None),
            status=status_html(is_answering),
        )


def _trail(error: BaseException) -> str:
    """Say where an error and its causes were raised: no message and no line of code, which may hold a key."""
    said: list[str] = []
    seen: BaseException | None = error
    while seen is not None:
        frames = traceback.extract_tb(seen.__traceback__, limit=-_FRAMES)
        said.append(type(seen).__qualname__)
        said += [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return "\n".join(said)


def _messages(exchange: Exchange) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"role": "user", "content": message_html(exchange.message)}]
    if exchange.thought:
        thought = message_html(exchange.thought)
        found.append({"role": "assistant", "content": thought, "metadata": {"title": "Reasoning"}})
    answer: list[Any] = [message_html(exchange.answer) or _THINKING]
    if exchange.found is not None and exchange.found.item is not None:
        answer.append(gr.HTML(card_html(exchange.found.item, exchange.whole)))
    return [*found, {"role": "assistant", "content": answer}]


def _year(text: str) -> int | None:
    if not text.strip():
        return None
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"{text.strip()!r} is no year", hint="write a number such as 1999") from error
