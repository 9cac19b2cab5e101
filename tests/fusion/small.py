"""A fusion trained on the small films in a second, for tests that need a real one."""

from __future__ import annotations

import numpy as np

from reges_index.fusion.fit_adapter import AdapterTraining
from reges_index.fusion.fit_weights import WeightTraining
from reges_index.fusion.fitting import TrainSet
from reges_index.fusion.model import FusionModel
from reges_index.fusion.training import FusionTraining, fit_fusion
from tests.catalog.hashing import DIMENSION, HashingEmbedding

from .films import FILMS, train_turns

ENCODER = {"name": "test/hashing-trigrams", "dimension": DIMENSION}
SETTINGS = FusionTraining(
    adapter=AdapterTraining(epochs=3, batch_size=8, sample=5),
    weights=WeightTraining(l2=1e-3, best=3, random=2),
    folds=2,
)


def small_train_set() -> TrainSet:
    """The small films and their dialogues, embedded by trigrams."""
    model = HashingEmbedding()

    def embed(texts):
        return np.array([model.get_text_embedding(text) for text in texts], dtype=np.float32)

    return TrainSet.build("films", train_turns(), FILMS, embed, embed)


def small_fusion(train_set: TrainSet | None = None) -> FusionModel:
    """Train it."""
    return fit_fusion([train_set or small_train_set()], SETTINGS, {"encoder": ENCODER})
