"""A fusion trained on the small films in a second, for tests that need a real one."""

from __future__ import annotations

import numpy as np

from reges_index.fusion.features import CatalogSources, QueryVectors, dialogue_texts
from reges_index.fusion.model import FusionModel
from reges_index.fusion.statistics import ItemStatistics
from reges_index.training.fusion_fitting import ScorerTraining, TrainSet, fit_fusion, make_examples
from tests.catalog.hashing import DIMENSION, HashingEmbedding

from .films import FILMS, train_turns

ENCODER = {"name": "test/hashing-trigrams", "dimension": DIMENSION}
SETTINGS = ScorerTraining(l2=1e-3, best=3, random=2, spliced=0.0)


def embed(texts):
    """Return unit vectors by trigrams."""
    model = HashingEmbedding()
    found = np.array([model.get_text_embedding(text) for text in texts], dtype=np.float32)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)


def small_train_set() -> TrainSet:
    """The small films and their dialogues."""
    turns = train_turns()
    sources = CatalogSources(FILMS, embed([item.text() for item in FILMS]), ItemStatistics.count([]))
    vectors = [QueryVectors(*embed(dialogue_texts(turn.chat))) for turn in turns]
    return TrainSet("films", turns, sources, vectors)


def small_fusion(train_set: TrainSet | None = None) -> FusionModel:
    """Train it."""
    sets = [train_set or small_train_set()]
    return fit_fusion(sets, SETTINGS, {"encoder": ENCODER}, make_examples(sets, SETTINGS, folds=2))
