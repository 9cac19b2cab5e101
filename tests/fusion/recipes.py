"""The small films as files, with a fusion's recipe, for tests of commands and steps."""

from __future__ import annotations

import json
from pathlib import Path

from .films import FILMS, train_turns

RECIPE = """
out: made
cache: kept
folds: 2
data:
  - {name: films, conversations: turns.jsonl, catalog: films.jsonl}
training: {l2: 1.0e-3, best: 3, random: 2, spliced: 0.2}
"""


def write_recipe(folder: Path, text: str = RECIPE, name: str = "fusion.yaml") -> Path:
    """Write turns, films and recipe; returns the recipe's file."""
    films = [
        {**item.model_dump(mode="json", exclude={"makers", "metadata"}), "directors": list(item.creators)}
        for item in FILMS
    ]
    turns = [turn.model_dump(mode="json") for turn in train_turns()]
    for file, rows in (("turns", turns), ("films", films)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{file}.jsonl").write_text(lines, encoding="utf-8")
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name
