"""Each block of the drop-in guide runs as it is printed, one after the other, on a real index."""

from collections import Counter

import pytest
from llama_index.core.instrumentation import get_dispatcher
from llama_index.llms.openai_like import OpenAILike

from reges_index import ReGeSLLM
from reges_index.catalog import resolve_encoder
from tests.apps import chat_app_after, query_app_after
from tests.apps.query_app_before import SHELF, build_index
from tests.pages import run_page
from tests.servers.scripted import asked_for, scripted_server, sensible

TITLES = [title for title, *_ in SHELF]


@pytest.fixture
def names(tmp_path):
    names = {"__name__": "guide", "index": build_index(str(tmp_path), resolve_encoder("minilm"))}
    yield names
    if "log" in names:
        get_dispatcher().event_handlers.remove(names["log"])


def test_every_block_runs(names, tiny):
    names["llm"] = ReGeSLLM(tiny, max_new_tokens=12)
    printed = run_page("guides/drop-in.md", names)
    stream = names["stream"]
    assert stream.metadata["title"] in TITLES
    assert stream.response.startswith(stream.metadata["title"])
    assert any(stream.response in text and str(stream.metadata["item_id"]) in text for text in printed)
    assert names["ended"].response.metadata["title"] in TITLES
    assert [text for text in printed if len(text.splitlines()) == 3 and text.count(" None ") == 0]


def test_what_an_llm_behind_an_api_is_asked_and_how_often(names):
    asked = []
    with scripted_server() as server:

        def after():
            asked.append(dict(Counter(map(asked_for, server.requests))))
            server.requests.clear()

        server.answer = sensible
        names["llm"] = OpenAILike(
            model="m", api_base=server.url, api_key="none", is_chat_model=True, context_window=8192
        )
        query_app_after.answer(query_app_after.build_engine(names["index"], names["llm"]), "space?")
        after()
        chat_app_after.talk(
            chat_app_after.build_chat(names["index"], names["llm"]), ["hello", "A film in space?"]
        )
        after()
        run_page("guides/drop-in.md", names, after=after)
    query, chat, *blocks = asked
    assert query == {"query": 1, "letters": 1}
    assert chat == {"text": 1, "query": 1, "letters": 1}  # a greeting, a wish
    frozen, postprocessor, reason, tool, workflow, asynchronous, events = blocks
    assert frozen == postprocessor == tool == workflow == asynchronous == events == {"letters": 1}
    assert reason == {"query": 1, "reasoning": 1, "letters": 1}
