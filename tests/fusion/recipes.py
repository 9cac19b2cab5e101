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
adapter: {epochs: 3, batch_size: 8, sample: 5}
weights: {l2: 1.0e-3, best: 3, random: 2, hidden: 4, epochs: 3}
"""


def write_recipe(folder: Path, text: str = RECIPE, name: str = "fusion.yaml") -> Path:
    """Write turns, films and recipe; returns the recipe's file."""
    for file, rows in (("turns", train_turns()), ("films", FILMS)):
        lines = "".join(json.dumps(row.model_dump(mode="json")) + "\n" for row in rows)
        (folder / f"{file}.jsonl").write_text(lines, encoding="utf-8")
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name
