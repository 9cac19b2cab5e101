import pytest

from tests.servers.lora_server import LoraServer
from tests.servers.proxy import fault_proxy
from tests.servers.transformers_serve import transformers_serve
from tests.tiny import save_tiny, save_tiny_adapter, tiny_lm, tiny_tokenizer

KEY = "sk-live-0123456789abcdef"


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """``transformers serve`` with a tiny model under a name that LlamaIndex's ``OpenAI`` class knows, the
    same without a chat template, and the embedded model."""
    from reges_index.models import resolve_base

    folder = tmp_path_factory.mktemp("served")
    save_tiny(folder / "gpt-4o-mini")
    bare = save_tiny(folder / "bare")
    tiny_tokenizer(chat=False).save_pretrained(bare)
    (bare / "chat_template.jinja").unlink()
    (folder / "smollm2").symlink_to(resolve_base().path)
    with transformers_serve(folder) as server:
        yield server


@pytest.fixture(scope="session")
def adapted(tmp_path_factory):
    """A tiny model with two random adapters that change what it says."""
    lm, folder = tiny_lm(), tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("query-expert", "item-expert"), 1):
        lm.load_adapter(name, save_tiny_adapter(folder / name, seed=seed))
    return lm


@pytest.fixture(scope="session")
def lora(adapted):
    """The tiny model and its adapters behind `LoraServer`, which wants `KEY`."""
    with LoraServer(adapted, key=KEY) as server:
        yield server


@pytest.fixture
def instructed(lm):
    """The embedded model behind `LoraServer`, under its own name."""
    with LoraServer(lm, key=KEY, base=lm.name) as server:
        yield server


@pytest.fixture
def proxy(served):
    """A `Proxy` before ``transformers serve``."""
    with fault_proxy(served.url) as between:
        yield between


@pytest.fixture
def quick_retries(monkeypatch):
    """Back-off in hundredths of a second; how often and when is left as it is."""
    from reges_index.models import backend
    from reges_index.remote import RetryPolicy

    def quick(llm):
        return RetryPolicy(llm.max_retries, first_wait_s=0.01, longest_wait_s=5.0)

    monkeypatch.setattr(backend, "policy_of", quick)
