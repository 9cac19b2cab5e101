"""Streams with a live reasoning, readers who leave, and resets while a turn runs."""

import asyncio
import gc
import threading
import time

import pytest
from llama_index.core.base.llms.types import ThinkingBlock

from reges_index import QueryDecoding, ReGeSChatEngine, ReGeSQueryEngine, ReGeSQueryTransform, ReGeSRerank
from reges_index.errors import InputError
from reges_index.item_expert import ReasoningDecoding, hear_reasoning


def chat_engine(few_films, tiny, max_new_tokens, **options):
    transform = ReGeSQueryTransform(tiny, decoding=QueryDecoding(max_new_tokens=4))
    rerank = ReGeSRerank(tiny, mode="reason", reasoning=ReasoningDecoding(max_new_tokens=max_new_tokens))
    engine = ReGeSQueryEngine.from_defaults(
        few_films, query_transform=transform, rerank=rerank, similarity_top_k=4
    )
    return ReGeSChatEngine(engine, **options)


@pytest.fixture
def session(few_films, tiny):
    return chat_engine(few_films, tiny, 12)


@pytest.fixture
def talkative(few_films, tiny):
    """Reasons for many seconds if nobody stops it."""
    return chat_engine(few_films, tiny, 3000)


def working():
    return [t.name for t in threading.enumerate() if t.name in ("reges-stream", "reges-turn")]


def wait_until_quiet():
    end = time.monotonic() + 20
    while working() and time.monotonic() < end:
        time.sleep(0.01)
    assert not working()


async def pieces_of(stream, asynchronous):
    if asynchronous:
        return [piece async for piece in stream.achat_stream]
    return list(stream.chat_stream)


async def streamed(session, message, asynchronous, **options):
    if asynchronous:
        return await session.astream_chat(message, **options)
    return session.stream_chat(message, **options)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_the_reasoning_comes_first_then_the_item(session, few_films, asynchronous):
    stream = await streamed(session, "a space film", asynchronous)
    pieces = await pieces_of(stream, asynchronous)
    thinking = [p for p in pieces if "thinking_delta" in p.additional_kwargs]
    assert len(thinking) > 1
    assert pieces[: len(thinking)] == thinking
    thought = "".join(piece.delta for piece in thinking)
    assert thinking[-1].message.blocks == [ThinkingBlock(content=thought)]
    assert stream.metadata["reasoning"] == stream.metadata["report"]["rerank"]["reasoning"]
    assert " ".join(thought.split())[:20] == stream.metadata["reasoning"][:20]
    assert "".join(piece.delta for piece in pieces) == f"{thought}\n{stream.response}"
    assert pieces[-1].message.content == stream.response == str(stream)
    assert stream.response.split(" (")[0] == stream.metadata["title"]
    assert stream.metadata["title"] in {film.title for film in few_films.items()}
    assert len(stream.source_nodes) == 4
    assert stream.sources[0].raw_output.item.id == stream.metadata["item_id"]
    assert [m.content for m in session.chat_history] == ["a space film", stream.response]


async def test_all_ways_of_asking_agree(few_films, tiny):
    replies = {}
    for how in ("chat", "achat", "stream_chat", "astream_chat"):
        session = chat_engine(few_films, tiny, 12)
        if how == "chat":
            reply = session.chat("a space film")
        elif how == "achat":
            reply = await session.achat("a space film")
        elif how == "stream_chat":
            reply = session.stream_chat("a space film")
            assert "".join(reply.response_gen).endswith(f"\n{reply.response}")
        else:
            reply = await session.astream_chat("a space film")
            text = "".join([piece async for piece in reply.async_response_gen()])
            assert text.endswith(f"\n{reply.response}")
        replies[how] = (reply.response, reply.metadata["reasoning"], reply.metadata["item_id"])
    assert len(set(replies.values())) == 1, replies


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_small_talk_has_no_reasoning(few_films, tiny, asynchronous):
    session = chat_engine(few_films, tiny, 12, llm=tiny, is_small_talk=lambda said: said[-1].content == "hi")
    stream = await streamed(session, "hi", asynchronous)
    assert stream.metadata == {"small_talk": True, "item_id": None}
    pieces = await pieces_of(stream, asynchronous)
    assert "".join(piece.delta for piece in pieces) == stream.response != ""
    assert not any(piece.additional_kwargs for piece in pieces)
    assert (await streamed(session, "a space film", asynchronous)).metadata == {}  # it reasons now


async def test_pieces_come_while_it_still_writes(talkative):
    """The first piece is there long before the reasoning could be finished."""
    stream = await talkative.astream_chat("a space film")
    reader = stream.async_response_gen()
    heard = [await anext(reader) for _ in range(3)]
    assert all(isinstance(piece, str) for piece in heard)
    assert working()
    assert stream.metadata == {}
    assert talkative.chat_history == []
    await reader.aclose()
    await asyncio.to_thread(wait_until_quiet)


@pytest.mark.parametrize("how", ["aclose", "break", "drop", "cancel", "aclose unread", "aclose achat_stream"])
async def test_an_asynchronous_reader_who_leaves_ends_the_turn(talkative, how):
    stream = await talkative.astream_chat("a space film")
    begun = asyncio.Event()

    async def read():
        async for _ in stream.async_response_gen():
            begun.set()
            if how == "break":
                break

    if how == "aclose":
        reader = stream.async_response_gen()
        await anext(reader)
        await reader.aclose()
    elif how == "aclose unread":
        await stream.async_response_gen().aclose()
    elif how == "aclose achat_stream":
        await stream.achat_stream.aclose()
    elif how == "break":
        await read()
    elif how == "drop":
        reader = stream.async_response_gen()
        await anext(reader)
        del reader
        gc.collect()
    else:
        task = asyncio.create_task(read())
        await begun.wait()
        task.cancel()
        await asyncio.wait([task])
    await asyncio.to_thread(wait_until_quiet)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:  # closing a dropped generator is a task of the loop's own
        await asyncio.wait(others, timeout=20)
    assert all(task.done() for task in others)
    assert talkative.chat_history == []
    talkative.query_engine = chat_engine_of(talkative)
    assert (await asyncio.wait_for(talkative.achat("another"), 20)).response  # the turn was given back


def chat_engine_of(session):
    """The same engine with a short reasoning."""
    engine = session.query_engine
    rerank = ReGeSRerank(
        engine.rerank.backend.lm, mode="reason", reasoning=ReasoningDecoding(max_new_tokens=4)
    )
    return ReGeSQueryEngine(engine.retriever, engine.query_transform, rerank)


@pytest.mark.parametrize("how", ["close", "break", "close unread", "close chat_stream"])
def test_a_synchronous_reader_who_leaves_ends_the_turn(talkative, how):
    stream = talkative.stream_chat("a space film")
    if how == "close":
        reader = stream.response_gen
        next(reader)
        reader.close()
    elif how == "close unread":
        stream.response_gen.close()
    elif how == "close chat_stream":
        stream.chat_stream.close()
    else:
        for _ in stream.response_gen:
            break
    wait_until_quiet()
    assert talkative.chat_history == []


def test_a_stream_that_nobody_reads_is_remembered(session):
    stream = session.stream_chat("a space film")
    wait_until_quiet()
    assert len(session.chat_history) == 2
    assert "".join(stream.response_gen).endswith(session.chat_history[1].content)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_what_goes_wrong_is_raised_to_the_reader(session, asynchronous, monkeypatch):
    with pytest.raises(InputError, match="empty"):
        await streamed(session, " ", asynchronous)
    monkeypatch.setattr(session.query_engine.rerank.backend.lm, "score", broken)
    stream = await streamed(session, "a space film", asynchronous)
    with pytest.raises(OSError, match="no disk"):
        await pieces_of(stream, asynchronous)
    assert session.chat_history == []
    await asyncio.to_thread(wait_until_quiet)


def broken(*args, **kwargs):
    raise OSError("no disk")


# -- reset while a turn runs -------------------------------------------------------------------------------


async def test_a_reset_does_not_wait_and_the_turn_answers_and_is_forgotten(few_films, tiny):
    session = chat_engine(few_films, tiny, 200)
    loop, begun = asyncio.get_running_loop(), asyncio.Event()
    with hear_reasoning(lambda _: loop.call_soon_threadsafe(begun.set)):
        turn = asyncio.create_task(session.achat("a space film"))
    await begun.wait()
    session.reset()
    assert not turn.done()
    assert (await turn).metadata["item_id"]
    assert session.chat_history == []


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_reset_in_the_middle(session, few_films, tiny, asynchronous):
    first = await session.achat("a space film")
    stream = await streamed(session, "another", asynchronous)
    session.reset()
    assert session.chat_history == []
    pieces = await pieces_of(stream, asynchronous)
    assert pieces[-1].message.content == stream.response != ""
    assert session.chat_history == []
    again = await session.achat("a space film")  # a new conversation, in which nothing is excluded
    assert len(session.chat_history) == 2
    assert again.metadata["item_id"] == first.metadata["item_id"]


async def test_a_turn_cancelled_while_it_is_written_is_written_whole(session):
    memory = session._session.memory
    aput, writing = memory.aput, asyncio.Event()

    async def slow(message):
        writing.set()
        await asyncio.sleep(0.05)
        await aput(message)

    object.__setattr__(memory, "aput", slow)
    task = asyncio.create_task(session.achat("a space film"))
    await writing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    object.__setattr__(memory, "aput", aput)
    assert len(session.chat_history) == 2
