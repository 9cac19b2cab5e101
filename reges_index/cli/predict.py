"""`reges predict`: recommendations for a file of turns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from reges_index.cli.engine_options import EngineOptions, ExcludeIds, with_engine_options
from reges_index.cli.output import print_json, say
from reges_index.cli.parts import AsJson, Quiet


@with_engine_options
def predict(
    options: EngineOptions,
    conversations: Annotated[Path, typer.Option("--conversations", help="JSONL of turns.")],
    out: Annotated[Path, typer.Option("--out", help="JSONL of predictions; finished ids are skipped.")],
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N turns.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Queries written at once.")] = 8,
    exclude_id: ExcludeIds = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Predict for every turn of a file. One line a turn holds query, ranking and probabilities.

    Items that the dialogue names stay in the rankings unless --exclude-mentioned is given: an evaluation's
    protocol decides whether they count. Killed runs go on where they were. The settings and hashes of catalog
    and adapters are kept beside the output, the hash of its dialogue in each line, and a run with others
    refuses to add to it. One run at a time writes to a file.
    """
    from reges_index.dialogue import read_turns
    from reges_index.engines.batch import predict_turns, require_turns
    from reges_index.files import RunLog

    if options.exclude_mentioned is None:
        options = replace(options, exclude_mentioned=False)
    turns, barred = read_turns(conversations)[:limit], exclude_id or []
    record = {**options.record(), "exclude_ids": sorted(barred)}
    with RunLog(out, record) as log:
        require_turns(log, turns)
        todo = [turn for turn in turns if turn.id not in log.finished]
        counts: dict[str, int] = {}
        if todo:
            engine, _ = options.engine()

            from reges_index.pipeline import engine_inputs

            with engine.turn():  # the rows of one run come from one version of a live catalog
                log.require_inputs(engine_inputs(engine))
                counts = predict_turns(
                    engine, todo, log, batch_size=batch_size, exclude_ids=barred, show_progress=not quiet
                )
    report = {
        "turns": len(turns),
        "done_before": len(turns) - len(todo),
        "predicted": len(todo),
        **counts,
    }
    if as_json:
        print_json({"out": str(out), **report})
    else:
        say(f"{out}: " + ", ".join(f"{count:,} {word.replace('_', ' ')}" for word, count in report.items()))
