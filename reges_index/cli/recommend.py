"""`reges recommend`: one dialogue in, one item out."""

from __future__ import annotations

from typing import Annotated

import typer

from reges_index.cli.engine import EngineOptions, build_engine
from reges_index.cli.output import candidate_table, console, errors, notes, print_json, say
from reges_index.cli.parts import (
    AsJson,
    DomainNoun,
    Encoder,
    ExcludeMentioned,
    Fusion,
    ItemAdapter,
    Mode,
    ModeChoice,
    Model,
    Name,
    QueryAdapter,
    RerankTopK,
    ShownTopK,
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
    top_k: ShownTopK = 10,
    similarity_top_k: TopK = 50,
    rerank_top_k: RerankTopK = None,
    exclude_mentioned: ExcludeMentioned = False,
    mode: ModeChoice = Mode.score,
    domain: DomainNoun = "movie,movies",
    fusion: Fusion = None,
    encoder: Encoder = None,
    model: Model = None,
    query_adapter: QueryAdapter = None,
    item_adapter: ItemAdapter = None,
    as_json: AsJson = False,
) -> None:
    """Recommend one item of the catalog for a dialogue."""
    if conversation.startswith("demo:"):
        from reges_index.catalog.demo import demo_dialogue

        turn = demo_dialogue(conversation.removeprefix("demo:"))
    else:
        from reges_index.dialogue import read_conversation

        turn = read_conversation(conversation)
    engine, _ = build_engine(
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
            exclude_mentioned=exclude_mentioned,
            mode=mode,
        )
    )
    result = engine.recommend(turn).to_dict(top_k)
    if as_json:
        print_json(result)
        return
    for note in notes(result["report"]):
        say(f"note: {note}", "yellow", to=errors)
    say(f"query  {result['query']}", "dim")
    console.print(candidate_table(result["candidates"]))
    best = result["recommendation"]
    console.print()
    say(best["title"] if best else "nothing left to recommend", "bold")
