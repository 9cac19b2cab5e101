"""`reges recommend`: one dialogue in, one item out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from reges_index.cli.engine_options import EngineOptions, ExcludeIds, with_engine_options
from reges_index.cli.output import candidate_table, console, errors, print_json, say
from reges_index.cli.parts import AsJson, ShownTopK
from reges_index.engines.notes import notes
from reges_index.errors import ConfigError

if TYPE_CHECKING:
    from reges_index.dialogue import Turn


@with_engine_options
def recommend(
    options: EngineOptions,
    wish: Annotated[
        str | None, typer.Argument(help="What you are looking for, in your words.", show_default=False)
    ] = None,
    conversation: Annotated[
        str | None,
        typer.Option(
            "--conversation",
            help="In its place a file: JSON messages or plain text, - for standard input, or demo:NAME.",
        ),
    ] = None,
    top_k: ShownTopK = 10,
    exclude_id: ExcludeIds = None,
    as_json: AsJson = False,
) -> None:
    """Recommend one item, for a wish or for a whole dialogue."""
    if (wish is None) == (conversation is None):
        raise ConfigError(
            "say what is looked for: either as text or with --conversation",
            hint='for example: reges recommend "a quiet film about the sea" --store STORE',
        )
    turn: Turn | str
    if conversation is None:
        turn = wish or ""
    elif conversation.startswith("demo:"):
        from reges_index.catalog.demo import demo_dialogue, demo_domain

        name = conversation.removeprefix("demo:")
        turn = demo_dialogue(name)
        if options.domain is None and options.pipeline is None:
            domain = demo_domain(name)
            if domain.noun != "movie":  # as by default
                options = replace(options, domain=f"{domain.noun},{domain.plural}")
    else:
        from reges_index.dialogue import read_conversation

        turn = read_conversation(conversation)
    engine, _ = options.engine()
    result = engine.recommend(turn, exclude_ids=exclude_id or ()).to_dict(top_k)
    if as_json:
        print_json(result)
        return
    for note in notes(result["report"]):
        say(f"note: {note}", "yellow", to=errors)
    if result["query"] is not None:
        say(f"query  {result['query']}", "dim")
    console.print(candidate_table(result["candidates"]))
    best = result["recommendation"]
    console.print()
    say(best["title"] if best else "nothing left to recommend", "bold")
