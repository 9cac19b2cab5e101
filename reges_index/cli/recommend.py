"""`reges recommend`: one dialogue in, one item out."""

from __future__ import annotations

from typing import Annotated

import typer

from reges_index.cli.engine import build_engine
from reges_index.cli.output import candidate_table, console, print_json
from reges_index.cli.parts import (
    AsJson,
    DomainNoun,
    Encoder,
    ExcludeMentioned,
    ItemAdapter,
    Model,
    Name,
    QueryAdapter,
    RerankTopK,
    Store,
    TopK,
)

__all__ = ["recommend"]


def recommend(
    store: Store,
    conversation: Annotated[
        str,
        typer.Option("--conversation", help="JSON file with 'messages', - for standard input, or demo:NAME."),
    ],
    name: Name = "items",
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="How many candidates to show.")] = 10,
    similarity_top_k: TopK = 50,
    rerank_top_k: RerankTopK = None,
    exclude_mentioned: ExcludeMentioned = False,
    mode: Annotated[str, typer.Option(help="score, constrained or generate.")] = "score",
    domain: DomainNoun = "movie,movies",
    encoder: Encoder = None,
    model: Model = None,
    query_adapter: QueryAdapter = None,
    item_adapter: ItemAdapter = None,
    as_json: AsJson = False,
) -> None:
    """Recommend one item of the catalog for a dialogue."""
    from reges_index.catalog.demo import demo_dialogue
    from reges_index.dialogue import read_conversation

    if conversation.startswith("demo:"):
        turn = demo_dialogue(conversation.removeprefix("demo:"))
    else:
        turn = read_conversation(conversation)
    engine, _ = build_engine(
        store=store,
        name=name,
        encoder=encoder,
        model=model,
        query_adapter=query_adapter,
        item_adapter=item_adapter,
        domain=domain,
        similarity_top_k=similarity_top_k,
        rerank_top_k=rerank_top_k,
        exclude_mentioned=exclude_mentioned,
        mode=mode,
    )
    result = engine.recommend(turn).to_dict(top_k)
    if as_json:
        print_json(result)
        return
    console.print(f"[dim]query[/dim]  {_plain(result['query'])}")
    console.print(candidate_table(result["candidates"]))
    best = result["recommendation"]
    console.print(f"\n[bold]{_plain(best['title'] if best else 'nothing left to recommend')}[/bold]")


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
