"""Shared by all tests. That this file is here also puts the repository on the path, for ``tests.tiny``."""

import os
from pathlib import Path

# No test may depend on a hub, and none may ask one. Read when huggingface_hub is imported, so set first.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

SHARED = Path(__file__).parents[2] / "shared"


def pytest_collection_modifyitems(items):
    missing = pytest.mark.skip(reason=f"{SHARED} is not there")
    for item in items:
        if item.get_closest_marker("shared") and not SHARED.is_dir():
            item.add_marker(missing)


@pytest.fixture(scope="session")
def shared():
    """The folder with public data and the paper, for tests marked ``shared``."""
    return SHARED


@pytest.fixture(scope="session")
def lm():
    """The embedded base model with the adapters that ship, loaded once."""
    from reges_index import LocalLM

    return LocalLM.default()


@pytest.fixture(scope="session")
def films():
    """Sixty demo films in memory, encoded with the embedded MiniLM."""
    from reges_index import ItemCatalog, demo_catalog

    return ItemCatalog.from_items(demo_catalog("films")[:60], name="sixty-films")


@pytest.fixture(scope="session")
def tiny():
    """A tiny random model in fp32, for tests of the machinery; nobody may load adapters into it.

    Components would take an adapter that another test has left there, so it refuses.
    """
    from tests.tiny import tiny_lm

    lm = tiny_lm()

    def refuse(*_args, **_kwargs):
        raise AssertionError("this model is shared by all tests: load adapters into a tiny_lm() of your own")

    lm.load_adapter = refuse
    return lm


@pytest.fixture
def server():
    """A server on this machine that answers what it is told; see `tests.servers.scripted`."""
    from tests.servers.scripted import scripted_server

    with scripted_server() as scripted:
        yield scripted


@pytest.fixture
def between(server):
    """A proxy before it that breaks connections on purpose; see `tests.servers.proxy`."""
    from tests.servers.proxy import fault_proxy

    with fault_proxy(server.url) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def few_films():
    """Twelve demo films in memory, with an encoder that hashes trigrams."""
    from reges_index import ItemCatalog, demo_catalog
    from tests.catalog.hashing import HashingEmbedding

    return ItemCatalog.from_items(
        demo_catalog("films")[:12], name="few-films", embed_model=HashingEmbedding()
    )
