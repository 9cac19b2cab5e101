"""Every Python block of docs/guides/api-models.md runs, from top to bottom in one module."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from tests.servers.conftest import KEY
from tests.servers.transformers_serve import free_port

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "api-models.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def ran(served, lora, instructed, monkeypatch):
    """The names that the blocks leave and what they print; the addresses are those of the test's servers."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_API_BASE", served.url)
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    names, printed = {"__name__": "guide"}, []
    for block in BLOCKS:
        code = block.replace("http://localhost:8000/v1", lora.url).replace(":9/v1", f":{free_port()}/v1")
        if instructed.base in code:
            names["server"]["api_base"] = instructed.url
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(code, "api-models.md", "exec"), names)
        printed.append(out.getvalue())
    return names, printed


def test_the_blocks_do_what_the_text_says(ran, lora):
    names, printed = ran
    assert len(printed) == 4
    assert printed[0].rstrip().endswith(("matched", "retrieval"))  # transformers serve has no logprobs
    assert {"query-expert", "item-expert"} <= {body["model"] for body in lora.asked}
    assert names["report"]["score_source"] == "logprobs"
    assert "is the server running" in printed[3]
    assert printed[3].rstrip().endswith("APIConnectionError APIConnectionError")
    assert KEY not in printed[3]
    assert names["response"].metadata["item_id"] in {film.id for film in names["catalog"].items()}
