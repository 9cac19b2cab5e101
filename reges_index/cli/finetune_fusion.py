"""`reges finetune encoder` and `fusion`: beyond the paper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reges_index.cli.output import print_json, say
from reges_index.cli.parts import AsJson

if TYPE_CHECKING:
    from reges_index.training.fusion import FusionReport

__all__ = ["encoder", "fusion"]

MaybeOut = Annotated[
    Path | None, typer.Option("--out", help="Folder of the model; the recipe's own by default.")
]


def encoder(
    recipe: Annotated[
        Path, typer.Argument(help="YAML of an encoder's training; see finetune/recipes/encoder.yaml.")
    ],
    as_json: AsJson = False,
) -> None:
    """Train R, the encoder of dialogues and items, or its query side alone; a killed run goes on."""
    from reges_index.training.encoder import train_encoder
    from reges_index.training.encoder_data import read_encoder_recipe

    report = train_encoder(read_encoder_recipe(recipe))
    if as_json:
        print_json(report)
    else:
        say(f"{report['steps']} steps in {report['seconds']} seconds; adapter in {report['out']}/adapter")


def fusion(
    recipe: Annotated[Path, typer.Argument(help="YAML of a fusion; see finetune/recipes/fusion.yaml.")],
    out: MaybeOut = None,
    as_json: AsJson = False,
) -> None:
    """Fit a fusion: statistics of the train dialogues, and what each feature weighs."""
    from reges_index.training.fusion import read_recipe, train_by_recipe

    _print(train_by_recipe(read_recipe(recipe), out=out), as_json)


def _print(report: FusionReport, as_json: bool) -> None:
    if as_json:
        print_json(report.to_dict())
        return
    for protocol, sets in report.cross_validation.items():
        for name, scores in sets.items():
            recall = ", ".join(
                f"{key} {'-' if value is None else f'{value:.3f}'}"
                for key, value in scores.items()
                if key != "pairs"
            )
            say(f"{name}, {protocol}: {recall} ({scores['pairs']} pairs)")
    say(f"model in {report.out}")
