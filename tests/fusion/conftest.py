"""A fusion trained on the small films, once for all tests."""

import pytest

from reges_index.catalog import ItemCatalog
from tests.catalog.hashing import HashingEmbedding

from .films import FILMS
from .small import small_fusion, small_train_set


@pytest.fixture(scope="session")
def train_set():
    return small_train_set()


@pytest.fixture(scope="session")
def fusion(train_set):
    return small_fusion(train_set)


@pytest.fixture
def catalog():
    return ItemCatalog.from_items(FILMS, embed_model=HashingEmbedding(), name="fusion")
