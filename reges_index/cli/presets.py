"""`reges presets`: whole configurations by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from reges_index.cli.output import console, print_json, say
from reges_index.cli.parts import AsJson

if TYPE_CHECKING:
    from reges_index.presets import Preset


def presets(
    name: Annotated[str | None, typer.Argument(help="Show this one whole, as a file for --pipeline.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the presets, or show one whole. They are the paper's (Table 1) and the embedded one.

    What is shown of one can be redirected into a file, changed, and used with --pipeline.
    """
    from reges_index.presets import PRESETS, get_preset
    from reges_index.settings import PipelineSettings

    if name is not None:
        preset = get_preset(name)
        if as_json:
            settings = PipelineSettings.preset(name)
            print_json({**_row(preset), "settings": settings.model_dump(mode="json")})
            return
        from reges_index.pipeline import SavedPipeline, pipeline_text

        print(f"# {preset.summary}\n# {preset.source}\n# adapters are trained by {preset.recipe}")
        print(pipeline_text(SavedPipeline(settings=PipelineSettings.preset(name))), end="")
        return
    if as_json:
        print_json([_row(preset) for preset in PRESETS.values()])
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("preset", "LLM", "encoder", "k", "mode"):  # as many as 80 columns hold
        table.add_column(heading, justify="right" if heading == "k" else "left", overflow="fold")
    for preset in PRESETS.values():
        row = _row(preset)
        table.add_row(
            preset.name,
            row["llm"] or "none",
            row["encoder"],
            str(row["similarity_top_k"]),
            row["mode"] or "",
        )
    console.print(table)
    console.print()
    say("reges presets NAME shows one whole; --preset NAME uses it, --set KEY=VALUE changes it", "dim")


def _row(preset: Preset) -> dict[str, Any]:
    from reges_index.settings import PipelineSettings

    settings = PipelineSettings.preset(preset.name)
    return {
        "name": preset.name,
        "summary": preset.summary,
        "source": preset.source,
        "recipe": preset.recipe,
        "llm": settings.llm,
        "encoder": settings.encoder,
        "retriever": settings.retrieval.retriever,
        "similarity_top_k": settings.retrieval.similarity_top_k,
        "mode": settings.rerank.mode if settings.llm is not None else None,
    }
