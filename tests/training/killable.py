"""A run in a process that a test kills."""

from __future__ import annotations

import torch

from reges_index.training.pipeline import run_recipe
from tests.catalog.hashing import HashingEmbedding


def run_killable(recipe: str, out: str) -> None:
    torch.set_num_threads(1)
    run_recipe(recipe, out=out, embed_model=HashingEmbedding())
