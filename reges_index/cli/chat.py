"""`reges chat`: talk to the recommender in the terminal."""

from __future__ import annotations

from typing import Annotated

import typer

from reges_index.cli.engine import build_engine
from reges_index.cli.output import candidate_table, console
from reges_index.cli.parts import (
    DomainNoun,
    Encoder,
    ItemAdapter,
    Model,
    Name,
    QueryAdapter,
    RerankTopK,
    Store,
    TopK,
)
from reges_index.errors import InputError

__all__ = ["chat"]


def chat(
    store: Store,
    name: Name = "items",
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="How many candidates to show.")] = 5,
    similarity_top_k: TopK = 50,
    rerank_top_k: RerankTopK = None,
    domain: DomainNoun = "movie,movies",
    encoder: Encoder = None,
    model: Model = None,
    query_adapter: QueryAdapter = None,
    item_adapter: ItemAdapter = None,
) -> None:
    """Chat in the terminal; shows the query it searched with and the candidates' probabilities.

    An empty line or end of input ends the chat, /reset starts a new one.
    """
    from rich.markup import escape

    from reges_index.engines import ReGeSChatEngine, SmallTalkDetector

    with console.status("loading models"):
        engine, catalog = build_engine(
            store=store,
            name=name,
            encoder=encoder,
            model=model,
            query_adapter=query_adapter,
            item_adapter=item_adapter,
            domain=domain,
            similarity_top_k=similarity_top_k,
            rerank_top_k=rerank_top_k,
            exclude_mentioned=True,
        )
        lm = engine.rerank.local_model
        session = ReGeSChatEngine(engine, llm=lm, is_small_talk=SmallTalkDetector(catalog.embed_model))
    console.print(f"[dim]{len(catalog):,} items; an empty line ends the chat, /reset starts a new one[/dim]")
    while True:
        try:
            message = console.input("[bold cyan]you[/bold cyan]    ").strip()
        except EOFError:
            break
        if not message:
            break
        if message == "/reset":
            session.reset()
            continue
        try:
            with console.status("thinking"):
                reply = session.chat(message)
        except InputError as error:
            console.print(escape(str(error)), style="red")
            continue
        metadata = reply.metadata or {}
        if not metadata["small_talk"]:
            console.print(f"[dim]query  {escape(metadata['query'] or '')}[/dim]")
            console.print(candidate_table(metadata["candidates"][:top_k]))
        console.print(f"[bold green]reges[/bold green]  {escape(str(reply))}")
