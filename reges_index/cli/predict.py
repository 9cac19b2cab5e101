"""`reges predict`: recommendations for a file of turns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reges_index.cli.engine import EngineOptions, build_engine
from reges_index.cli.output import print_json, say
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
    Quiet,
    RerankTopK,
    Store,
    TopK,
)

__all__ = ["predict"]


def predict(
    store: Store,
    conversations: Annotated[Path, typer.Option("--conversations", help="JSONL of turns.")],
    out: Annotated[Path, typer.Option("--out", help="JSONL of predictions; finished ids are skipped.")],
    name: Name = "items",
    similarity_top_k: TopK = 50,
    rerank_top_k: RerankTopK = None,
    exclude_mentioned: ExcludeMentioned = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N turns.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Queries written at once.")] = 8,
    mode: ModeChoice = Mode.score,
    domain: DomainNoun = "movie,movies",
    fusion: Fusion = None,
    encoder: Encoder = None,
    model: Model = None,
    query_adapter: QueryAdapter = None,
    item_adapter: ItemAdapter = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Predict for every turn of a file: one line a turn with query, ranking and probabilities.

    Killed runs go on where they were. The settings are kept beside the output, and a run with others
    refuses to add to it.
    """
    from reges_index.dialogue import read_turns
    from reges_index.engines.batch import PredictionLog, predict_turns

    turns = read_turns(conversations)[:limit]
    options = EngineOptions(
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
    log = PredictionLog(out, options.settings())
    todo = [turn for turn in turns if turn.id not in log.finished]
    if todo:
        engine, _ = build_engine(options)
        predict_turns(engine, todo, log, batch_size=batch_size, show_progress=not quiet)
    report = {
        "turns": len(turns),
        "done_before": len(turns) - len(todo),
        "predicted": len(todo),
        **log.counts,
    }
    if as_json:
        print_json({"out": str(out), **report})
    else:
        say(f"{out}: " + ", ".join(f"{count:,} {word.replace('_', ' ')}" for word, count in report.items()))
