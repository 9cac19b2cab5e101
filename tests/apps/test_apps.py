"""Plain LlamaIndex apps gain ReGeS by a few changed lines, and answer with items of their catalog."""

import difflib
from pathlib import Path

import pytest

from reges_index import ReGeSChatEngine, ReGeSLLM, ReGeSQueryEngine
from tests.apps import chat_app_after, chat_app_before, query_app_after, query_app_before
from tests.catalog.hashing import HashingEmbedding

HERE = Path(__file__).parent
GUIDE = HERE.parents[1] / "docs" / "guides" / "drop-in.md"
TITLES = {title for title, *_ in query_app_before.SHELF}
QUESTION = "Something with space and a mystery, please"


def changes(app):
    """Lines that were added or taken away, with their signs."""
    before, after = ((HERE / f"{app}_{when}.py").read_text("utf-8") for when in ("before", "after"))
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return [line for line in lines if line[0] in "+-" and not line.startswith(("+++", "---"))]


@pytest.mark.parametrize("app", ["query_app", "chat_app"])
def test_ten_lines_at_most(app):
    changed = changes(app)
    assert 0 < len(changed) <= 10, changed
    assert any("reges_index" in line for line in changed)
    assert "reges" not in (HERE / f"{app}_before.py").read_text("utf-8").lower()


@pytest.mark.parametrize("app", ["query_app", "chat_app"])
def test_the_guide_shows_this_very_diff(app):
    shown = [
        block.split("```")[0].strip("\n").splitlines()
        for block in GUIDE.read_text("utf-8").split("```diff")[1:]
    ]
    wanted = [line for line in changes(app) if line not in "+-"]
    assert wanted in [[line for line in block if line[0] in "+-" and line not in "+-"] for block in shown]


@pytest.fixture
def index(tmp_path):
    return query_app_before.build_index(str(tmp_path), HashingEmbedding())


@pytest.fixture
def llm(tiny):
    return ReGeSLLM(tiny, max_new_tokens=12)


def test_the_query_app(index, llm):
    text, sources = query_app_before.answer(query_app_before.build_engine(index, llm), QUESTION)
    assert text
    assert text not in TITLES
    assert len(sources) == 6
    engine = query_app_after.build_engine(index, llm)
    text, sources = query_app_after.answer(engine, QUESTION)
    assert text in TITLES
    assert sources[0] == text
    assert set(sources) == TITLES & set(sources)
    metadata = engine.query(QUESTION).metadata
    assert metadata["query"]  # the vectors read it, so the query expert has written one
    assert sum(row["probability"] for row in metadata["candidates"]) == pytest.approx(1)
    assert engine.query(f"I loved {sources[0]}. Another?").metadata["title"] != sources[0]


def test_the_chat_app(index, llm):
    messages = ["I like slow films at sea", "I know that one, another?", "thanks, and one in space?"]
    answers, _ = chat_app_before.talk(chat_app_before.build_chat(index, llm), messages)
    assert all(answer not in TITLES for answer in answers)
    chat = chat_app_after.build_chat(index, llm)
    assert isinstance(chat, ReGeSChatEngine)
    answers, sources = chat_app_after.talk(chat, messages)
    named = [answer.split(" (")[0] for answer in answers]
    assert set(named) <= TITLES
    assert len(set(named)) == 3  # none is recommended twice
    assert sources[0] == named[-1]
    assert [m.content for m in chat.chat_history] == [
        text for pair in zip(messages, answers, strict=True) for text in pair
    ]
    engine = ReGeSQueryEngine.from_defaults(
        retriever=index.as_retriever(similarity_top_k=6), llm=llm, exclude_mentioned=True
    )
    assert engine.recommend(messages[0]).item.title == named[0]
    chat.reset()
    assert chat.chat_history == []
    assert chat_app_after.talk(chat, messages[:1])[0] == answers[:1]


def test_small_talk_gets_no_film(index, llm):
    chat = chat_app_after.build_chat(index, llm)
    reply = chat.chat("thank you very much")  # one of the detector's examples: any encoder finds it
    assert reply.metadata["small_talk"] is True
    assert reply.source_nodes == []


async def test_the_apps_work_asynchronously_too(index, llm):
    engine = query_app_after.build_engine(index, llm)
    assert str(await engine.aquery(QUESTION)) == str(engine.query(QUESTION))
    chat = chat_app_after.build_chat(index, llm)
    stream = await chat.astream_chat("I like slow films at sea")
    assert "".join([piece async for piece in stream.async_response_gen()]).split(" (")[0] in TITLES
