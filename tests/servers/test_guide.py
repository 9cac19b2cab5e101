"""The guide to LLMs of one's own does what it says, block by block, on servers of the tests."""

from tests.pages import run_page
from tests.servers.conftest import KEY
from tests.servers.transformers_serve import free_port


def test_the_guide_to_llms_of_ones_own(served, lora, instructed, adapted, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_API_BASE", served.url)
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    shipped = adapted.shipped_adapters()
    names = {"__name__": "guide"}
    instead = {
        "http://localhost:8000/v1": instructed.url,
        "writer, chooser =": f'server["api_base"] = "{lora.url}"\nwriter, chooser =',
        'manifest="adapters/query-expert"': f'manifest="{shipped["query-expert"]}"',
        'manifest="adapters/item-expert"': f'manifest="{shipped["item-expert"]}"',
        ":9/v1": f":{free_port()}/v1",
    }
    printed = run_page("guides/api-models.md", names, instead)
    assert names["report"]["score_source"] == "logprobs"
    assert {"query-expert", "item-expert"} <= {body["model"] for body in lora.requests}
    assert not [text for text in printed if KEY in text]
