"""`ReGeSChatEngine`: ReGeS with a memory, as a LlamaIndex chat engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.callbacks import trace_method
from llama_index.core.chat_engine.types import AgentChatResponse, BaseChatEngine
from llama_index.core.indices.vector_store.retrievers import VectorIndexRetriever
from llama_index.core.memory import BaseMemory
from llama_index.core.prompts import PromptTemplate

from reges_index.catalog import Item, ItemCatalog, LiveCatalog
from reges_index.dialogue import DialogueQueryBundle, one_line, to_messages
from reges_index.dialogue.render import unique_ids
from reges_index.driver import Do, Work, arun, off_loop, run
from reges_index.engines.chat_stream import ReGeSChatStream, async_stream, stream
from reges_index.engines.item_answers import (
    Question,
    answer_from_entry,
    asks_about,
    question_messages,
    with_reason,
)
from reges_index.engines.query_engine import ReGeSQueryEngine
from reges_index.engines.session import EndlessMemory, OpenTurn, Reply, Session, as_response, whole_sentences
from reges_index.engines.small_talk import SmallTalkDetector, accepts, ready_reply
from reges_index.errors import ConfigError
from reges_index.models.backend import ApiBackend, Backend, resolve_backend
from reges_index.models.named import model_of, open_llm

if TYPE_CHECKING:
    from llama_index.core.llms.llm import LLM

    from reges_index.models.local_lm import LocalLM

# Of small talk the model sees the end only: this many messages, and tokens of each.
_TALK_MESSAGES, _TALK_TOKENS = 6, 128
# Seconds between two looks at whether the turn before has ended.
_POLL = 0.005
_SMALL_TALK_TOKENS, _ANSWER_TOKENS = 48, 256

_detectors: WeakKeyDictionary[ReGeSQueryEngine, SmallTalkDetector | None] = WeakKeyDictionary()

_SMALL_TALK_TMPL = PromptTemplate(
    "You are a friendly assistant who recommends {item_plural}. The user makes small talk. Answer in one "
    "short friendly sentence. Do not name any {item_noun}. If it fits, ask what the user likes."
)


class ReGeSChatEngine(BaseChatEngine):
    """Chat that recommends from the catalog.

    A recommendation is answered with the item's title and year and one reason: the sentence that the query
    engine's synthesizer had an LLM write (``style="sentence"``), or else what the user asked for and the
    item's entry share. The bare title is in the response's metadata.

    One engine is one session: it holds the memory of one conversation. Engines may share a query engine,
    models and catalog. Calls on one engine wait for each other, so that turns do not mix; only `reset` does
    not wait.

    Parameters
    ----------
    query_engine
        Does the recommending.
    memory
        Any LlamaIndex memory; by default one that keeps every message.
    llm
        Answers small talk, and questions about what was recommended where it is an API's (else the item's
        fields answer them); by default the item expert's where that is an API's. Without one, small talk gets
        one of a few ready sentences. Never decides on an item.
    is_small_talk
        Says of a dialogue whether its newest message is small talk; None recommends at every turn.
    """

    def __init__(
        self,
        query_engine: ReGeSQueryEngine,
        *,
        memory: BaseMemory | None = None,
        llm: LLM | LocalLM | None = None,
        is_small_talk: Callable[[Sequence[ChatMessage]], bool] | None = None,
    ) -> None:
        self.query_engine = query_engine
        self.callback_manager = query_engine.callback_manager
        self._session = Session(memory if memory is not None else EndlessMemory())
        self._is_small_talk = is_small_talk
        self._talk_llm = llm
        self._talk: Backend | None = None
        self._turn = threading.Lock()

    @classmethod
    def from_defaults(
        cls,
        catalog: ItemCatalog | LiveCatalog | BaseRetriever | None = None,
        *,
        query_engine: ReGeSQueryEngine | None = None,
        llm: LLM | LocalLM | str | None = None,
        memory: BaseMemory | None = None,
        chat_history: list[ChatMessage] | None = None,
        small_talk: bool = True,
        **engine_options: Any,
    ) -> ReGeSChatEngine:
        """Build a chat over a catalog, over a retriever, or over a query engine that you have.

        A retriever as the first argument, ``llm``, ``memory``, ``chat_history`` and ``verbose`` are as in
        LlamaIndex's ``CondensePlusContextChatEngine.from_defaults``, so that this can take its place. What
        else that one knows is refused by name, with what there is instead.

        Parameters
        ----------
        catalog, query_engine
            One of them; in place of the catalog a retriever may come first, or as ``retriever=``.
        llm
            As of `ReGeSQueryEngine.from_defaults`; beside a query engine it answers small talk only.
        chat_history
            Messages to start from.
        small_talk
            Answer greetings and thanks without a recommendation. They are told by the catalog's encoder, or
            that of a vector index's retriever; over other retrievers every message is a wish.
        engine_options
            Of `ReGeSQueryEngine.from_defaults`; not with a query engine.

        Raises
        ------
        ConfigError
            If none or several of the sources are given, or options of an engine that is given, or options
            that there are not.
        """
        retriever = engine_options.get("retriever")
        if query_engine is not None and (catalog is not None or isinstance(retriever, BaseRetriever)):
            raise ConfigError(
                "a chat engine needs a catalog, a retriever or a query engine, one of the three"
            )
        if query_engine is not None and engine_options:
            raise ConfigError(
                f"{', '.join(engine_options)} cannot be set on the query engine that was given",
                hint="give them to ReGeSQueryEngine.from_defaults",
            )
        memory = memory if memory is not None else EndlessMemory()
        if chat_history:
            memory.set(list(chat_history))
        if query_engine is None:
            query_engine = ReGeSQueryEngine.from_defaults(catalog, llm=llm, **engine_options)
            llm = None  # the item expert's, which small talk takes by itself
        if isinstance(llm, str):
            llm = open_llm(llm)
        return cls(
            query_engine,
            memory=memory,
            llm=llm,
            is_small_talk=small_talk_detector(query_engine) if small_talk else None,
        )

    # -- memory ----------------------------------------------------------------------------------------

    @property
    def chat_history(self) -> list[ChatMessage]:
        """All messages so far."""
        return list(self._session.memory.get_all())

    def reset(self) -> None:
        """Forget the conversation and what was recommended in it.

        A turn under way is not waited for: it ends with its answer, of which nothing is remembered.
        """
        self._session.reset()

    def undo(self) -> bool:
        """Take back the last message of the user and the answer to it; False where there is none."""
        return self._session.undo()

    # -- one turn --------------------------------------------------------------------------------------

    def _talker(self) -> Backend | None:
        """Return the model that answers small talk; None where ready sentences do.

        A small model of this process says odd things, so only one that was given for it is asked.
        """
        llm, expert = self._talk_llm, self.query_engine.rerank
        if llm is None and expert is not None and isinstance(expert.backend, ApiBackend):
            llm = model_of(expert.backend)
        if self._talk is None and llm is not None:
            self._talk = resolve_backend(llm, role="small-talk")
        return self._talk

    def _talk_messages(self, talk: Backend, dialogue: Sequence[ChatMessage]) -> list[ChatMessage]:
        domain = self.query_engine.domain
        system = _SMALL_TALK_TMPL.format(item_noun=domain.noun, item_plural=domain.plural)
        newest = [
            ChatMessage(
                role=m.role, content=talk.measure.tail(one_line(m.content or ""), _TALK_TOKENS).strip()
            )
            for m in to_messages(dialogue)[-_TALK_MESSAGES:]
        ]
        return [ChatMessage(role=MessageRole.SYSTEM, content=system), *newest]

    def _replying(self, dialogue: Sequence[ChatMessage], turn: OpenTurn) -> Work[Reply]:
        last, newest = turn.last, dialogue[-1].content or ""
        if last is not None and (asked := asks_about(newest, last)) is not None:
            return (yield from self._answering(asked, last, dialogue))
        if self._is_small_talk is not None and (
            (last is not None and accepts(newest)) or (yield off_loop(self._is_small_talk, dialogue))
        ):
            talk = yield off_loop(self._talker)
            if talk is None:
                return Reply(ready_reply(newest, one_line(last.title) if last is not None else ""))
            messages = yield off_loop(self._talk_messages, talk, dialogue)
            made = yield from talk.said([messages], max_new_tokens=_SMALL_TALK_TOKENS)
            return Reply(whole_sentences(made[0][0]))
        bundle = DialogueQueryBundle.from_dialogue(dialogue, exclude_ids=turn.barred)
        found = yield from self.query_engine.recommending(bundle)
        response = yield from self.query_engine.answering(found)
        text = str(response)
        if found.item is not None and text == one_line(found.item.title):  # no LLM wrote a sentence
            text = with_reason(found.item, dialogue)
        return Reply(text, found, response)

    def _answering(self, asked: Question, item: Item, dialogue: Sequence[ChatMessage]) -> Work[Reply]:
        """Answer a question about an item: by the user's LLM, or else by the item's fields."""
        entry = answer_from_entry(asked, item, dialogue)
        talk = yield off_loop(self._talker)
        # A small model in this process says things of an item that its entry does not hold.
        if not isinstance(talk, ApiBackend):
            return Reply(entry, about=item)
        messages = question_messages(dialogue, item)
        made = yield from talk.said([messages], max_new_tokens=_ANSWER_TOKENS)
        return Reply(one_line(made[0][0]) or entry, about=item)

    def _turning(
        self,
        message: str,
        chat_history: list[ChatMessage] | None,
        exclude_ids: Iterable[str],
        check: Callable[[], None] | None = None,
    ) -> Work[Reply]:
        """Answer a message and remember the turn; ``check`` may end it before the memory changes."""
        user = to_messages(message)[0]  # refuses an empty message before the memory changes
        barred = unique_ids(exclude_ids)
        yield Do(self._turn.acquire, self._acquired)
        try:
            with self.query_engine.turn():
                turn = self._session.begin(user, chat_history, barred)
                dialogue = yield from self._session.dialogue(turn)
                reply = yield from self._replying(dialogue, turn)
                if check is not None:
                    check()
                # Only now: a turn that failed leaves the memory as it was.
                yield Do(
                    lambda: run(self._session.remember(turn, reply)),
                    lambda: _whole(arun(self._session.remember(turn, reply))),
                )
        finally:
            self._turn.release()
        return reply

    async def _acquired(self) -> None:
        # Waiting in threads would use up the very threads that the turn under way needs.
        while not self._turn.acquire(blocking=False):
            await asyncio.sleep(_POLL)

    # -- LlamaIndex ------------------------------------------------------------------------------------

    @trace_method("chat")
    def chat(
        self,
        message: str,
        chat_history: list[ChatMessage] | None = None,
        *,
        exclude_ids: Iterable[str] = (),
    ) -> AgentChatResponse:
        """Answer a message.

        Parameters
        ----------
        chat_history
            Replaces the memory where given, as in LlamaIndex's own engines.
        exclude_ids
            Items that must not be recommended in this turn.

        Raises
        ------
        InputError
            If the message is empty; the memory is then as it was.
        """
        return as_response(run(self._turning(message, chat_history, exclude_ids)))

    @trace_method("chat")
    async def achat(
        self,
        message: str,
        chat_history: list[ChatMessage] | None = None,
        *,
        exclude_ids: Iterable[str] = (),
    ) -> AgentChatResponse:
        """Answer a message without blocking the event loop."""
        return as_response(await arun(self._turning(message, chat_history, exclude_ids)))

    @trace_method("chat")
    def stream_chat(
        self,
        message: str,
        chat_history: list[ChatMessage] | None = None,
        *,
        exclude_ids: Iterable[str] = (),
    ) -> ReGeSChatStream:
        """Answer a message piece by piece.

        Where the item expert reasons (``mode="reason"``), its reasoning comes as it is written, and then the
        answer. Else the item is chosen before the first word: what is streamed is its presentation. Who stops
        reading while the reasoning comes ends the turn, of which nothing is remembered; behind it, all is.
        """
        turn = partial(self._turning, message, chat_history, exclude_ids)
        return stream((lambda check: run(turn(check))) if self._reasons else run(turn()))

    @trace_method("chat")
    async def astream_chat(
        self,
        message: str,
        chat_history: list[ChatMessage] | None = None,
        *,
        exclude_ids: Iterable[str] = (),
    ) -> ReGeSChatStream:
        """Answer a message piece by piece without blocking the event loop; see `stream_chat`."""
        turn = partial(self._turning, message, chat_history, exclude_ids)
        return await async_stream((lambda check: run(turn(check))) if self._reasons else await arun(turn()))

    @property
    def _reasons(self) -> bool:
        expert = self.query_engine.rerank
        return expert is not None and expert.reasoning is not None


def small_talk_detector(engine: ReGeSQueryEngine) -> SmallTalkDetector | None:
    """Return what tells small talk in chats over an engine; None where the engine's encoder is not known.

    One for all chats of an engine: its examples are embedded once, not with each conversation's first words.
    """
    if engine not in _detectors:
        source = engine.retriever
        if engine.catalog is not None:
            encoder: BaseEmbedding | None = engine.catalog.embed_model
        else:
            encoder = source._embed_model if isinstance(source, VectorIndexRetriever) else None
        _detectors[engine] = SmallTalkDetector(encoder) if encoder is not None else None
    return _detectors[engine]


async def _whole(work: Coroutine[Any, Any, None]) -> None:
    """Do all of it even if the caller is cancelled: half a turn in the memory is no use."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
