"""Train the fusion: statistics, query adapter, feature weights, and the final choice.

    python finetune/train_fusion.py fit finetune/recipes/fusion.yaml
    python finetune/train_fusion.py negatives finetune/recipes/fusion.yaml --top-k 50 --out runs/second-round
    python finetune/train_fusion.py choice runs/fusion choices.jsonl --out runs/fusion-with-llm

`negatives` writes, for each train set, what a fusion that has not seen the turn ranks highest: hard negatives
for a second round of the item expert (`reges finetune item-expert --hard-negatives`).

`choice` takes one turn a line: {"dialogue": id, "retrieval": [probabilities by FusionRetriever],
"logprobs": [by LLM_G, or null], "targets": [true where right]}; it prints what was fitted and the expected
calibration error of cross-fitted probabilities, and writes the model with the new weights.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

import numpy as np

from reges_index.errors import ReGeSError
from reges_index.fusion.calibration import calibration
from reges_index.fusion.fit_choice import Choice, cross_fit, fit_choice
from reges_index.fusion.model import FusionModel
from reges_index.fusion.recipe import read_recipe
from reges_index.fusion.training import cross_validate, fit_fusion, out_of_fold, ranked_out_of_fold
from reges_index.training.jsonl_log import write_whole


def fit(args: argparse.Namespace) -> None:
    """Train by a recipe and write the model beside a report of the cross-validation."""
    recipe = read_recipe(args.recipe)
    sets = recipe.train_sets()
    bench = recipe.bench()
    made = out_of_fold(sets, recipe.settings, bench)
    scores = cross_validate(made, recipe.weights)
    model = fit_fusion(sets, recipe.settings, recipe.manifest(), made, bench)
    model.save(recipe.out)
    named = {
        protocol: dict(zip([its.name for its in sets], found, strict=True))
        for protocol, found in scores.items()
    }
    print(json.dumps({"out": str(recipe.out), "cross_validation": named}, indent=2))


def negatives(args: argparse.Namespace) -> None:
    """Write the second round's hard negatives, a file for each train set."""
    recipe = read_recipe(args.recipe)
    sets = recipe.train_sets()
    made = out_of_fold(sets, recipe.settings, recipe.bench())
    # Targets leave the lists afterwards, and no turn has more than a few.
    ranked = ranked_out_of_fold(made, recipe.weights, args.top_k + 10)
    args.out.mkdir(parents=True, exist_ok=True)
    for its, lists in zip(sets, ranked, strict=True):
        rows = []
        for turn, targets, best in zip(its.turns, its.targets, lists, strict=True):
            names = set(its.titles[targets].tolist())  # equal title and year: false negatives
            wrong = [(n, p) for n, p in best if int(its.titles[n]) not in names][: args.top_k]
            found = [
                {"id": its.sources.items[n].id, "rank": rank, "score": score}
                for rank, (n, score) in enumerate(wrong, 1)
            ]
            if targets:
                rows.append(json.dumps({"id": turn.id, "query": "", "negatives": found}))
        write_whole(args.out / f"{its.name}.jsonl", "\n".join(rows) + "\n")
        print(f"{args.out / its.name}.jsonl: {len(rows)} of {len(its.turns)} turns")


def choice(args: argparse.Namespace) -> None:
    """Fit the final choice of a model on turns whose candidates LLM_G has ranked."""
    rows = [json.loads(line) for line in args.choices.read_text(encoding="utf-8").splitlines()]
    choices = [
        Choice(
            row["dialogue"],
            tuple(row["retrieval"]),
            None if row["logprobs"] is None else tuple(row["logprobs"]),
            tuple(row["targets"]),
        )
        for row in rows
    ]
    weights = fit_choice(choices)
    FusionModel.load(args.model).with_choice(weights).save(args.out)
    made = cross_fit(choices)
    picks = [int(np.argmax(chances)) for chances in made]
    hits = [row.targets[pick] for row, pick in zip(choices, picks, strict=True)]
    found = calibration([max(chances) for chances in made], hits)
    report = {
        "turns": len(choices),
        "retrieval": weights.retrieval,
        "model": weights.model,
        "cross_fitted": {"turns_right": float(np.mean(hits)), "ece": found.error, "bins": found.bins},
    }
    print(json.dumps(report, indent=2))


def main() -> int:
    """Run one command; a bad input ends with its message and exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("fit")
    one.add_argument("recipe", type=Path)
    one.set_defaults(run=fit)
    hard = commands.add_parser("negatives")
    hard.add_argument("recipe", type=Path)
    hard.add_argument("--top-k", type=int, default=50)
    hard.add_argument("--out", type=Path, required=True)
    hard.set_defaults(run=negatives)
    two = commands.add_parser("choice")
    two.add_argument("model", type=Path)
    two.add_argument("choices", type=Path)
    two.add_argument("--out", type=Path, required=True)
    two.set_defaults(run=choice)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    try:
        args.run(args)
    except ReGeSError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
