"""`reges chat`: talk to the recommender in the terminal."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

from reges_index.cli.engine import EngineOptions, build_engine
from reges_index.cli.output import candidate_table, console, errors, notes, print_error, say
from reges_index.cli.parts import (
    DomainNoun,
    Encoder,
    Fusion,
    ItemAdapter,
    Model,
    Name,
    QueryAdapter,
    RerankTopK,
    ShownTopK,
    Store,
    TopK,
)
from reges_index.errors import InputError

if TYPE_CHECKING:
    from reges_index.engines import ReGeSChatEngine

__all__ = ["chat"]


def chat(
    store: Store,
    name: Name = "items",
    top_k: ShownTopK = 5,
    similarity_top_k: TopK = 50,
    rerank_top_k: RerankTopK = None,
    domain: DomainNoun = "movie,movies",
    fusion: Fusion = None,
    encoder: Encoder = None,
    model: Model = None,
    query_adapter: QueryAdapter = None,
    item_adapter: ItemAdapter = None,
) -> None:
    """Chat in the terminal; shows the query it searched with and the candidates' probabilities.

    An empty line or end of input ends the chat, /reset starts a new one.
    """
    with errors.status("loading models"):
        engine, catalog = build_engine(
            EngineOptions(
                store=store,
                name=name,
                encoder=encoder,
                model=model,
                query_adapter=query_adapter,
                item_adapter=item_adapter,
                domain=domain,
                fusion=fusion,
                similarity_top_k=similarity_top_k,
                rerank_top_k=rerank_top_k,
                exclude_mentioned=True,
            )
        )
        from reges_index.engines import ReGeSChatEngine, SmallTalkDetector

        talker = SmallTalkDetector(catalog.embed_model)
        session = ReGeSChatEngine(engine, llm=engine.rerank.local_model, is_small_talk=talker)
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
            _answer(session, message, top_k)
        except InputError as error:
            print_error(error)


def _answer(session: ReGeSChatEngine, message: str, top_k: int) -> None:
    with errors.status("thinking"):
        reply = session.chat(message)
    metadata = reply.metadata or {}
    if not metadata["small_talk"]:
        for note in notes(metadata.get("report", {})):
            say(f"note: {note}", "yellow", to=errors)
        say(f"query  {metadata['query']}", "dim")
        console.print(candidate_table(metadata["candidates"][:top_k]))
    console.print("[bold green]reges[/bold green]  ", end="")
    say(str(reply))
