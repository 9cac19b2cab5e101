"""`reges chat`: talk to the recommender in the terminal."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

from reges_index.cli.engine_options import EngineOptions, ExcludeIds, with_engine_options
from reges_index.cli.output import candidate_table, console, errors, print_error, say
from reges_index.cli.parts import ShownTopK
from reges_index.engines.notes import notes
from reges_index.errors import ReGeSError

if TYPE_CHECKING:
    from reges_index.engines.chat_engine import ReGeSChatEngine

_COMMANDS = {
    "/help": "shows this",
    "/undo": "takes back your last message and the answer to it",
    "/reset": "starts a new conversation",
    "/quit": "ends the chat, as does an empty line",
}


@with_engine_options
def chat(options: EngineOptions, top_k: ShownTopK = 5, exclude_id: ExcludeIds = None) -> None:
    """Chat in the terminal. Shows the candidates and their probabilities.

    Questions about what was recommended are answered from its entry. /help lists what else can be typed.
    """
    with errors.status("loading models"):
        engine, catalog = options.engine()
        from reges_index.engines.chat_engine import ReGeSChatEngine

        session = ReGeSChatEngine.from_defaults(query_engine=engine)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a stray byte must not end the chat
    say(f"{len(catalog):,} items; /help lists what can be typed, /quit ends the chat", "dim")
    while True:
        try:
            message = console.input("[bold cyan]you[/bold cyan]    ").strip()
        except EOFError:
            console.print()
            break
        if not message or message.lower() in ("/quit", "/exit", "/q"):
            break
        if message.startswith("/"):
            _command(session, message.lower())
            continue
        try:
            _answer(session, message, top_k, exclude_id or [])
        except ReGeSError as error:  # of this turn: a server or store may be back at the next
            print_error(error)


def _command(session: ReGeSChatEngine, command: str) -> None:
    if command == "/reset":
        session.reset()
        say("a new conversation", "dim")
    elif command == "/undo":
        say("your last message is taken back" if session.undo() else "there is nothing to take back", "dim")
    else:
        if command not in ("/help", "/?"):
            say(f"there is no command {command}", "yellow", to=errors)
        for name, what in _COMMANDS.items():
            say(f"{name:<8}{what}", "dim")


def _answer(session: ReGeSChatEngine, message: str, top_k: int, exclude_ids: list[str]) -> None:
    with errors.status("thinking"):
        reply = session.chat(message, exclude_ids=exclude_ids)
    metadata = reply.metadata or {}
    if "candidates" in metadata:
        for note in notes(metadata.get("report", {})):
            say(f"note: {note}", "yellow", to=errors)
        if metadata["query"] is not None:
            say(f"query  {metadata['query']}", "dim")
        console.print(candidate_table(metadata["candidates"][:top_k]))
    console.print("[bold green]reges[/bold green]  ", end="")
    say(str(reply))
