"""Each Python block of the drop-in guide runs as it is printed, one after the other, on a real index."""

import ast
import inspect
import re

import pytest
from llama_index.core.instrumentation import get_dispatcher

from tests.apps.query_app_before import SHELF, build_index
from tests.apps.test_apps import GUIDE
from tests.catalog.hashing import HashingEmbedding


@pytest.fixture
def names(tmp_path, tiny):
    names = {"index": build_index(str(tmp_path), HashingEmbedding()), "llm": tiny.as_llm(max_new_tokens=12)}
    yield names
    if "log" in names:
        get_dispatcher().event_handlers.remove(names["log"])


async def test_every_block_runs(names, capsys):
    blocks = re.findall(r"```python\n(.+?)```", GUIDE.read_text("utf-8"), re.S)
    assert len(blocks) == 5
    printed = []
    for number, block in enumerate(blocks, 1):
        code = compile(block, f"drop-in.md, block {number}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, names)
        if inspect.isawaitable(result):
            await result
        printed.append(capsys.readouterr().out)
    titles = [title for title, *_ in SHELF]
    stream = names["stream"]
    assert stream.response in titles
    told = f"{stream.metadata['reasoning']} {stream.metadata['item_id']}"
    assert printed[0].endswith(f"\n{stream.response}\n{told}\n")
    tool = printed[1].splitlines()
    assert tool[0] == "recommend_movie"
    assert tool[1] in titles
    events = printed[2].splitlines()
    assert events[:4] == ["QueryWritten", "CandidatesRetrieved", "CandidatesRanked", "Recommended"]
    assert any(events[4].startswith(title) for title in titles)
    assert "tokens became" in printed[3]
    assert len(printed[3].splitlines()) == 4
    assert 0 < float(printed[4].splitlines()[-1]) <= 1
