"""A fusion trained on the small films, once for all tests."""

import numpy as np
import pytest

from reges_index.catalog import ItemCatalog
from reges_index.fusion.fit_adapter import AdapterTraining
from reges_index.fusion.fit_weights import WeightTraining
from reges_index.fusion.fitting import TrainSet
from reges_index.fusion.training import FusionTraining, fit_fusion
from tests.catalog.hashing import DIMENSION, HashingEmbedding

from .films import FILMS, train_turns

ENCODER = {"name": "test/hashing-trigrams", "dimension": DIMENSION}


@pytest.fixture(scope="session")
def train_set():
    model = HashingEmbedding()

    def embed(texts):
        return np.array([model.get_text_embedding(text) for text in texts], dtype=np.float32)

    return TrainSet.build("films", train_turns(), FILMS, embed, embed)


@pytest.fixture(scope="session")
def settings():
    return FusionTraining(
        adapter=AdapterTraining(epochs=3, batch_size=8, sample=5),
        weights=WeightTraining(l2=1e-3, best=3, random=2),
        folds=2,
    )


@pytest.fixture(scope="session")
def fusion(train_set, settings):
    return fit_fusion([train_set], settings, {"encoder": ENCODER})


@pytest.fixture
def catalog():
    return ItemCatalog.from_items(FILMS, embed_model=HashingEmbedding(), name="fusion")
