"""Each block of the drop-in guide runs as it is printed, one after the other, on a real index."""

import pytest
from llama_index.core.instrumentation import get_dispatcher

from reges_index import ReGeSLLM
from reges_index.catalog import resolve_encoder
from tests.apps.query_app_before import SHELF, build_index
from tests.pages import run_page

TITLES = [title for title, *_ in SHELF]


@pytest.fixture
def names(tmp_path, tiny):
    index = build_index(str(tmp_path), resolve_encoder("minilm"))
    names = {"__name__": "guide", "index": index, "llm": ReGeSLLM(tiny, max_new_tokens=12)}
    yield names
    if "log" in names:
        get_dispatcher().event_handlers.remove(names["log"])


def test_every_block_runs(names):
    printed = run_page("guides/drop-in.md", names)
    stream = names["stream"]
    assert stream.metadata["title"] in TITLES
    assert stream.response.startswith(stream.metadata["title"])
    assert any(stream.response in text and str(stream.metadata["item_id"]) in text for text in printed)
    assert names["ended"].response.metadata["title"] in TITLES
    assert [text for text in printed if len(text.splitlines()) == 3 and text.count(" None ") == 0]
