import pytest

from reges_index.models.local_lm import LocalLM
from tests.tiny import save_tiny_adapter, tiny_lm


@pytest.fixture(scope="session")
def adapter_paths(tmp_path_factory):
    """Two random adapters of the tiny llama, as plain PEFT folders."""
    root = tmp_path_factory.mktemp("adapters")
    return {name: save_tiny_adapter(root / name, seed=seed) for seed, name in enumerate(("first", "second"))}


@pytest.fixture
def lm():
    return tiny_lm()


@pytest.fixture
def adapted(adapter_paths):
    """The tiny llama with both adapters."""
    lm = tiny_lm()
    for name, path in adapter_paths.items():
        lm.load_adapter(name, path)
    return lm


@pytest.fixture(scope="session")
def embedded():
    """The embedded base in fp32, in which scores can be compared closely."""
    return LocalLM.from_pretrained(dtype="fp32", device="cpu")
