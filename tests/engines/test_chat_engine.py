import asyncio
import inspect

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import CondensePlusContextChatEngine
from llama_index.core.memory import ChatMemoryBuffer

from reges_index import (
    DialogueQueryBundle,
    ItemCatalog,
    QueryDecoding,
    ReGeSChatEngine,
    ReGeSQueryEngine,
    ReGeSQueryTransform,
    ReGeSSynthesizer,
)
from reges_index.errors import ConfigError, InputError
from tests.builders import chat, item
from tests.catalog.hashing import HashingEmbedding


@pytest.fixture(scope="module")
def query_engine(few_films, tiny):
    transform = ReGeSQueryTransform(tiny, decoding=QueryDecoding(max_new_tokens=6))
    return ReGeSQueryEngine.from_defaults(
        few_films, llm=tiny, query_transform=transform, similarity_top_k=5, exclude_mentioned=True
    )


def says_hello(dialogue):
    return dialogue[-1].content.lower().startswith(("hello", "thanks"))


@pytest.fixture
def session(query_engine, tiny):
    return ReGeSChatEngine(query_engine, llm=tiny, is_small_talk=says_hello)


async def answer(session, how, message, **options):
    """Text of the answer by any of the four ways."""
    if how == "chat":
        return session.chat(message, **options).response
    if how == "achat":
        return (await session.achat(message, **options)).response
    if how == "stream_chat":
        return "".join(session.stream_chat(message, **options).response_gen)
    stream = await session.astream_chat(message, **options)
    return "".join([word async for word in stream.async_response_gen()])


WAYS = ["chat", "achat", "stream_chat", "astream_chat"]


@pytest.mark.parametrize("how", ["chat", "achat"])
@pytest.mark.parametrize("kind", ["stock", "catalog"])
async def test_a_chat_over_a_retriever_does_not_run_dry(tiny, kind, how):
    titles = ("Aldebaran", "Bergamot", "Cumulus", "Dromedary", "Escapement", "Farthingale", "Gossamer")
    films = [item(str(n), title, 1980 + n) for n, title in enumerate(titles)]
    catalog = ItemCatalog.from_items(films, name="seven", embed_model=HashingEmbedding())
    source = catalog.as_index() if kind == "stock" else catalog
    retriever = source.as_retriever(similarity_top_k=3)
    transform = ReGeSQueryTransform(tiny, decoding=QueryDecoding(max_new_tokens=6))
    session = ReGeSChatEngine.from_defaults(
        retriever=retriever, llm=tiny, query_transform=transform, small_talk=False
    )
    seen = []
    for _ in films:
        message = "Anything but Bergamot"
        reply = await session.achat(message) if how == "achat" else session.chat(message)
        left = {film.id for film in films} - {"1", *seen}
        assert {node.node_id for node in reply.source_nodes} <= left
        assert len(reply.source_nodes) == min(3, len(left))
        seen.append(reply.metadata["item_id"])
    assert seen.pop() is None
    assert sorted(seen) == ["0", "2", "3", "4", "5", "6"]
    assert retriever.similarity_top_k == 3


@pytest.mark.parametrize("how", WAYS)
async def test_turns_are_remembered(session, few_films, how):
    named = {f"{item.title} ({item.year})" for item in few_films.items()}
    first = await answer(session, how, "a space film")
    second = await answer(session, how, "something older")
    assert {text.split(". ")[0] for text in (first, second)} <= named
    assert [(m.role.value, m.content) for m in session.chat_history] == [
        ("user", "a space film"),
        ("assistant", first),
        ("user", "something older"),
        ("assistant", second),
    ]
    session.reset()
    assert session.chat_history == []
    assert await answer(session, how, "a space film") == first


def test_no_item_twice_until_there_is_none(query_engine, few_films):
    session = ReGeSChatEngine(query_engine)
    picks = [session.chat(f"another one, number {n}").metadata["item_id"] for n in range(13)]
    assert picks[12] is None
    # Answers name the year, so that one "Solaris" does not stand for the other.
    assert sorted(picks[:12]) == sorted(few_films.ids())
    assert "no candidate is left" in session.chat_history[-1].content
    session.reset()
    assert session.chat("another one, number 0").metadata["item_id"] == picks[0]


@pytest.mark.parametrize("how", WAYS)
async def test_small_talk_gets_an_answer_without_an_item(session, how):
    text = await answer(session, how, "Hello there!")
    assert text.strip()
    assert len(session.chat_history) == 2
    reply = session.chat("thanks")
    assert reply.metadata == {"small_talk": True, "item_id": None}
    assert reply.source_nodes == reply.sources == []
    assert session.chat("a film").metadata["small_talk"] is False


def test_small_talk_after_a_message_of_a_megabyte(session):
    session.chat("space " * 180_000)
    assert session.chat("thanks").metadata["small_talk"] is True


async def test_what_is_known_comes_with_the_answer(session):
    reply = session.chat("a space film")
    assert len(reply.source_nodes) == 5
    assert reply.sources[0].raw_output.item.id == reply.metadata["item_id"]
    assert set(reply.metadata) >= {"query", "candidates", "timings", "report", "probability"}
    stream = await session.astream_chat("another")
    assert len(stream.source_nodes) == 5
    assert str(stream).startswith(f"{stream.sources[0].raw_output.item.title} (")


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("nothing", ["", "  \n"])
async def test_an_empty_message_changes_nothing(session, how, nothing):
    session.chat("a space film")
    before = session.chat_history
    with pytest.raises(InputError, match="empty"):
        await answer(session, how, nothing, chat_history=list(chat("other")))
    assert session.chat_history == before


@pytest.mark.parametrize("how", ["chat", "achat"])
async def test_a_turn_that_fails_changes_nothing(query_engine, how):
    class Broken(ReGeSSynthesizer):
        def synthesize(self, *args, **kwargs):
            raise OSError("no")

        async def asynthesize(self, *args, **kwargs):
            raise OSError("no")

    parts = (query_engine.retriever, query_engine.query_transform, query_engine.rerank)
    session = ReGeSChatEngine(ReGeSQueryEngine(*parts, Broken()))
    with pytest.raises(OSError, match="no"):
        await answer(session, how, "a film", chat_history=list(chat("a", "b", "c")))
    assert session.chat_history == []
    with pytest.raises(OSError, match="no"):
        await asyncio.wait_for(answer(session, how, "a film"), 20)  # the turn has been given back


@pytest.mark.parametrize("how", WAYS)
async def test_a_history_replaces_the_memory(session, how):
    first = session.chat("a space film")
    history = list(chat("I like films", "which?", "long ones"))[:2]
    await answer(session, how, "a space film", chat_history=history)
    assert [m.content for m in session.chat_history[:3]] == ["I like films", "which?", "a space film"]
    assert len(session.chat_history) == 4
    assert len(history) == 2  # the caller's list is no memory
    # It is another conversation: what was recommended in the one before may be recommended in it.
    again = session.chat("a space film", chat_history=[])
    assert again.metadata["item_id"] == first.metadata["item_id"]


async def test_sessions_share_an_engine_and_nothing_else(query_engine):
    one, two = ReGeSChatEngine(query_engine), ReGeSChatEngine(query_engine)
    first = one.chat("a space film")
    second = await two.achat("a space film")
    assert first.metadata["item_id"] == second.metadata["item_id"]
    assert len(one.chat_history) == len(two.chat_history) == 2
    one.reset()
    assert len(two.chat_history) == 2


def test_small_talk_examples_are_embedded_once_for_all_chats_of_an_engine():
    encoder = HashingEmbedding()
    catalog = ItemCatalog.from_items([item("1", "Aldebaran", 1980)], name="one", embed_model=encoder)
    engine = ReGeSQueryEngine.from_defaults(catalog)
    ReGeSChatEngine.from_defaults(query_engine=engine).chat("hello")
    embedded = encoder.embedded
    assert embedded > 20
    ReGeSChatEngine.from_defaults(query_engine=engine).chat("hello")
    assert encoder.embedded - embedded <= 2  # the message and its last clause


async def test_many_turns_at_once_wait_for_each_other(query_engine):
    """More tasks than the default executor has threads; they must not take the one that works."""
    session = ReGeSChatEngine(query_engine)
    replies = await asyncio.wait_for(
        asyncio.gather(*(session.achat(f"film number {n}") for n in range(40))), timeout=120
    )
    history = session.chat_history
    assert len(history) == 80
    assert [m.role.value for m in history] == ["user", "assistant"] * 40
    assert sorted(m.content for m in history[::2]) == sorted(f"film number {n}" for n in range(40))
    picks = [reply.metadata["item_id"] for reply in replies if reply.metadata["item_id"]]
    assert len(picks) == len(set(picks)) == 12


async def test_a_cancelled_turn_lets_the_next_one_in(query_engine):
    session = ReGeSChatEngine(query_engine)
    tasks = [asyncio.create_task(session.achat(f"film {n}")) for n in range(4)]
    await asyncio.sleep(0.01)
    for task in tasks[1:]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (await asyncio.wait_for(session.achat("one more"), 60)).response
    assert len(session.chat_history) == 4


def test_from_defaults(few_films, tiny, query_engine):
    history = list(chat("hello", "hi", "a space film"))
    memory = ChatMemoryBuffer.from_defaults(token_limit=3000)
    session = ReGeSChatEngine.from_defaults(
        few_films, llm=tiny, memory=memory, chat_history=history[:2], similarity_top_k=3
    )
    assert session.chat_history == history[:2]
    assert session.chat("I like films about trains and long journeys to far places").metadata["item_id"]
    assert memory.get_all() == session.chat_history
    for wrong in (
        {},
        {"catalog": few_films, "query_engine": query_engine},
        {"query_engine": query_engine, "similarity_top_k": 3},
    ):
        with pytest.raises(ConfigError):
            ReGeSChatEngine.from_defaults(llm=tiny, **wrong)


def test_llamaindexs_arguments_fit_or_are_named(few_films, tiny):
    session = ReGeSChatEngine.from_defaults(
        few_films.as_retriever(similarity_top_k=3),
        llm=tiny,
        memory=ChatMemoryBuffer.from_defaults(token_limit=3000),
        chat_history=list(chat("hello", "hi")),
        verbose=True,
    )
    assert len(session.chat("a space film about a long journey").source_nodes) == 3
    condense = inspect.signature(CondensePlusContextChatEngine.from_defaults).parameters
    foreign = {"system_prompt", "context_prompt", "condense_prompt", "skip_condense", "node_postprocessors"}
    assert foreign < set(condense)
    for name in foreign:
        with pytest.raises(ConfigError, match=f"no option {name}") as caught:
            ReGeSChatEngine.from_defaults(few_films, llm=tiny, **{name: None})
        assert "update_prompts()" in caught.value.hint or "=ReGeS" in caught.value.hint


def test_a_query_engine_that_is_to_stream_is_sent_to_the_chat(few_films):
    with pytest.raises(ConfigError, match="no option streaming") as caught:
        ReGeSQueryEngine.from_defaults(few_films, streaming=True)
    assert "stream_chat" in caught.value.hint


def test_system_messages_in_the_history_do_no_harm(session):
    history = [ChatMessage(role="system", content="be brief"), *chat("a", "b", "c")[:2]]
    assert session.chat("thanks", chat_history=history).metadata["small_talk"]
    assert session.chat("a space film", chat_history=history).metadata["item_id"]


def test_real_models(films, lm):
    session = ReGeSChatEngine.from_defaults(films, llm=lm, similarity_top_k=10, max_input_tokens=800)
    assert session.chat("Hi!").metadata["small_talk"] is True
    found = session.chat("I would like a tense heist film")
    assert found.metadata["item_id"] in {item.id for item in films.items()}
    assert session.chat("thank you very much, bye").metadata["small_talk"] is True


def test_a_question_about_the_recommended_item_is_no_turn_of_recommendation(session):
    first = session.chat("a film")
    title = first.metadata["title"]
    answer = session.chat("who directed that?")
    assert title in str(answer)
    assert "candidates" not in answer.metadata
    assert answer.metadata["question_about"] == first.metadata["item_id"]
    assert answer.sources == []
    assert title in str(session.chat("is it long?"))
    assert session.chat("another one").metadata["item_id"] not in (None, first.metadata["item_id"])


def test_a_question_before_any_recommendation_is_a_wish(session):
    assert session.chat("is it long?").metadata["item_id"]


def test_undo_takes_back_a_message_and_what_was_recommended(session):
    assert session.undo() is False
    first = session.chat("a film")
    second = session.chat("another one")
    assert session.undo() is True
    assert [m.content for m in session.chat_history] == ["a film", str(first)]
    assert session.chat("another one").metadata["item_id"] == second.metadata["item_id"]
    assert session.undo()
    assert session.undo()
    assert session.chat_history == []
    assert session.chat("a film").metadata["item_id"] == first.metadata["item_id"]


def test_the_next_turn_searches_with_the_title_of_an_answer_and_not_with_its_reason(films):
    chat = ReGeSChatEngine.from_defaults(films)
    first = chat.chat("A slow film in space, please.")
    title = first.metadata["title"]
    wish = ChatMessage(role="user", content="Now a cartoon for the kids.")
    bundle = DialogueQueryBundle.from_dialogue([*chat.chat_history, wish])
    assert bundle.embedding_strs[0].splitlines()[1] == title
