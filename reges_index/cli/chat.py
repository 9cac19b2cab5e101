"""`reges chat`: talk to the recommender in the terminal."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

from reges_index.cli.engine_options import EngineOptions, ExcludeIds, with_engine_options
from reges_index.cli.output import candidate_table, console, errors, notes, print_error, say
from reges_index.cli.parts import ShownTopK
from reges_index.errors import ReGeSError

if TYPE_CHECKING:
    from reges_index.engines import ReGeSChatEngine

__all__ = ["chat"]


@with_engine_options
def chat(options: EngineOptions, top_k: ShownTopK = 5, exclude_id: ExcludeIds = None) -> None:
    """Chat in the terminal; shows what was searched with and the candidates' probabilities.

    An empty line or end of input ends the chat, /reset starts a new one.
    """
    with errors.status("loading models"):
        engine, catalog = options.engine()
        from reges_index.engines import ReGeSChatEngine

        session = ReGeSChatEngine.from_defaults(query_engine=engine)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a stray byte must not end the chat
    say(f"{len(catalog):,} items; an empty line ends the chat, /reset starts a new one", "dim")
    while True:
        try:
            message = console.input("[bold cyan]you[/bold cyan]    ").strip()
        except EOFError:
            console.print()
            break
        if not message:
            break
        if message == "/reset":
            session.reset()
            say("a new conversation", "dim")
            continue
        try:
            _answer(session, message, top_k, exclude_id or [])
        except ReGeSError as error:  # of this turn: a server or store may be back at the next
            print_error(error)


def _answer(session: ReGeSChatEngine, message: str, top_k: int, exclude_ids: list[str]) -> None:
    with errors.status("thinking"):
        reply = session.chat(message, exclude_ids=exclude_ids)
    metadata = reply.metadata or {}
    if not metadata["small_talk"]:
        for note in notes(metadata.get("report", {})):
            say(f"note: {note}", "yellow", to=errors)
        if metadata["query"] is not None:
            say(f"query  {metadata['query']}", "dim")
        console.print(candidate_table(metadata["candidates"][:top_k]))
    console.print("[bold green]reges[/bold green]  ", end="")
    say(str(reply))
