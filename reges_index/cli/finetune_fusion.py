"""`reges finetune fusion`, `query-adapter`, `fusion-negatives` and `fusion-choice`: beyond the paper."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reges_index.cli import finetune_parts as parts
from reges_index.cli.output import print_json, say
from reges_index.cli.parts import AsJson

if TYPE_CHECKING:
    from reges_index.fusion.by_recipe import FusionReport

__all__ = ["fusion", "fusion_choice", "fusion_negatives", "query_adapter"]

Recipe = Annotated[Path, typer.Argument(help="YAML of a fusion; see finetune/recipes/fusion.yaml.")]
MaybeOut = Annotated[
    Path | None, typer.Option("--out", help="Folder of the model; the recipe's own by default.")
]


def fusion(recipe: Recipe, out: MaybeOut = None, as_json: AsJson = False) -> None:
    """Train a fusion: statistics, query adapter (with its tower, if the recipe has one), feature weights."""
    from reges_index.fusion.by_recipe import train_by_recipe
    from reges_index.fusion.recipe import read_recipe

    _quiet()
    _print(train_by_recipe(read_recipe(recipe), out=out), as_json)


def query_adapter(
    recipe: Recipe,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the model; the recipe's own with -query-adapter by default."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train the fusion's query side alone: a fusion in which no other source has any weight."""
    from reges_index.fusion.by_recipe import QUERY_ADAPTER, query_adapter_folder, train_by_recipe
    from reges_index.fusion.recipe import read_recipe

    _quiet()
    read = read_recipe(recipe)
    _print(train_by_recipe(read, out=out or query_adapter_folder(read), only=QUERY_ADAPTER), as_json)


def fusion_negatives(
    recipe: Recipe,
    out: Annotated[Path, typer.Option("--out", help="Folder for one file of each data set.")],
    top_k: parts.TopK = 50,
    as_json: AsJson = False,
) -> None:
    """Write what a fusion that has not seen the turn ranks highest: negatives for LLM_G's second round."""
    from reges_index.fusion.recipe import read_recipe
    from reges_index.training.fusion_negatives import mine_fusion_negatives

    _quiet()
    written = mine_fusion_negatives(read_recipe(recipe), out, top_k=top_k)
    if as_json:
        print_json({its.name: its.to_dict() for its in written})
    else:
        for its in written:
            say(f"{its.out}: {its.written} of {its.turns} turns")


def fusion_choice(
    model: Annotated[Path, typer.Argument(help="Folder of a fusion.")],
    choices: Annotated[
        Path,
        typer.Argument(
            help='JSONL, a turn a line: {"dialogue": id, "retrieval": \\[probabilities by FusionRetriever], '
            '"logprobs": \\[by LLM_G] or null, "targets": \\[true where right]}.'
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the model with the new weights.")],
    as_json: AsJson = False,
) -> None:
    """Fit the final choice between a fusion and LLM_G on turns whose candidates LLM_G has ranked."""
    from reges_index.fusion.choice_file import fit_choice_file

    report = fit_choice_file(model, choices, out)
    if as_json:
        print_json(report.to_dict())
    else:
        say(
            f"{report.turns} turns: retrieval weighs {report.retrieval:.3f}, LLM_G {report.model:.3f}; "
            f"cross-fitted {report.cross_fitted['turns_right']:.3f} right, calibration error "
            f"{report.cross_fitted['ece']:.3f}; model in {out}"
        )


def _quiet() -> None:
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # a line for each of thousands of dialogues


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
    if report.repeat_share_missed:
        say("repeat_share was out of reach: named items weigh what was learnt")
    say(f"model in {report.out}")
