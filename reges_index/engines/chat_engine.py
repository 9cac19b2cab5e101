"""`ReGeSChatEngine`: ReGeS with a memory, as a LlamaIndex chat engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.callbacks import trace_method
from llama_index.core.chat_engine.types import AgentChatResponse, BaseChatEngine
from llama_index.core.indices.vector_store.retrievers import VectorIndexRetriever
from llama_index.core.llms.llm import LLM
from llama_index.core.memory import BaseMemory
from llama_index.core.prompts import PromptTemplate

from reges_index.catalog import ItemCatalog, LiveCatalog
from reges_index.dialogue import one_line, to_messages
from reges_index.engines.arguments import told_apart
from reges_index.engines.chat_reply import Reply, as_response, text_of, whole_sentences
from reges_index.engines.chat_stream import ReGeSChatStream, alive_stream, finished_stream, live_stream
from reges_index.engines.live_turn import AsyncLiveTurn, LiveTurn
from reges_index.engines.query_engine import ReGeSQueryEngine
from reges_index.engines.session import Session, endless_memory
from reges_index.engines.small_talk import SmallTalkDetector
from reges_index.errors import ConfigError
from reges_index.models.backend import Backend, resolve_backend
from reges_index.models.local_lm import LocalLM

__all__ = ["DEFAULT_SMALL_TALK_TMPL", "ReGeSChatEngine"]

# Of small talk the model sees the end only: this many messages, and tokens of each.
_TALK_MESSAGES, _TALK_TOKENS = 6, 128
# Seconds between two looks at whether the turn before has ended.
_POLL = 0.005

DEFAULT_SMALL_TALK_TMPL = PromptTemplate(
    "You are a friendly assistant who recommends {item_plural}. The user makes small talk. Answer in one "
    "short friendly sentence. Do not name any {item_noun}. If it fits, ask what the user likes."
)


class ReGeSChatEngine(BaseChatEngine):
    """Chat that recommends from the catalog.

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
        Answers small talk; None takes the embedded default. Never decides on an item.
    is_small_talk
        Says of a dialogue whether its newest message is small talk; None recommends at every turn.
    exclude_recommended
        Do not recommend the same item twice in a session.
    small_talk_prompt
        System prompt with the slots ``{item_noun}`` and ``{item_plural}``.
    """

    def __init__(
        self,
        query_engine: ReGeSQueryEngine,
        *,
        memory: BaseMemory | None = None,
        llm: LLM | LocalLM | None = None,
        is_small_talk: Callable[[Sequence[ChatMessage]], bool] | None = None,
        exclude_recommended: bool = True,
        small_talk_prompt: PromptTemplate = DEFAULT_SMALL_TALK_TMPL,
    ) -> None:
        self.query_engine = query_engine
        self.callback_manager = query_engine.callback_manager
        self._session = Session(
            memory if memory is not None else endless_memory(), exclude_recommended=exclude_recommended
        )
        self._is_small_talk = is_small_talk
        self._talk: Backend | None = (
            resolve_backend(llm, role="small-talk") if is_small_talk is not None else None
        )
        self._talk_prompt = small_talk_prompt
        self._turn = threading.Lock()

    @classmethod
    def from_defaults(
        cls,
        catalog: ItemCatalog | LiveCatalog | BaseRetriever | None = None,
        *,
        query_engine: ReGeSQueryEngine | None = None,
        retriever: BaseRetriever | None = None,
        llm: LLM | LocalLM | None = None,
        memory: BaseMemory | None = None,
        chat_history: list[ChatMessage] | None = None,
        small_talk: bool = True,
        exclude_mentioned: bool = True,
        exclude_recommended: bool = True,
        **engine_kwargs: Any,
    ) -> ReGeSChatEngine:
        """Build a chat over a catalog, over a retriever, or over a query engine that you have.

        A retriever as the first argument, ``llm``, ``memory``, ``chat_history`` and ``verbose`` are as in
        LlamaIndex's ``CondensePlusContextChatEngine.from_defaults``, so that this can take its place. What
        else that one knows is refused by name, with what there is instead.

        Parameters
        ----------
        catalog, query_engine, retriever
            Exactly one of them; a retriever may also come first. A query engine keeps its own
            ``exclude_mentioned``, and small talk is not told apart unless you pass ``is_small_talk`` to the
            class yourself; nor is it over a retriever that is not a vector index's, for want of an encoder.
        chat_history
            Messages to start from.
        small_talk
            Answer greetings and thanks without a recommendation.
        exclude_mentioned
            Never recommend what anyone has named in the chat.
        engine_kwargs
            Passed to `ReGeSQueryEngine.from_defaults`; not with a query engine.

        Raises
        ------
        ConfigError
            If none or several of the three are given, or options of an engine that is given, or options
            that there are not.
        """
        catalog, retriever = told_apart(catalog, retriever)
        if sum(source is not None for source in (catalog, query_engine, retriever)) != 1:
            raise ConfigError(
                "a chat engine needs a catalog, a retriever or a query engine, one of the three"
            )
        if query_engine is not None and engine_kwargs:
            raise ConfigError(
                f"{', '.join(engine_kwargs)} cannot be set on the query engine that was given",
                hint="give them to ReGeSQueryEngine.from_defaults",
            )
        memory = memory if memory is not None else endless_memory()
        if chat_history:
            memory.set(chat_history)
        detector = None
        if query_engine is None:
            encoder = catalog.embed_model if catalog is not None else _encoder_of(retriever)
            detector = SmallTalkDetector(encoder) if small_talk and encoder is not None else None
            query_engine = ReGeSQueryEngine.from_defaults(
                catalog, retriever=retriever, llm=llm, exclude_mentioned=exclude_mentioned, **engine_kwargs
            )
        return cls(
            query_engine,
            memory=memory,
            llm=llm,
            is_small_talk=detector,
            exclude_recommended=exclude_recommended,
        )

    # -- memory ----------------------------------------------------------------------------------------

    @property
    def chat_history(self) -> list[ChatMessage]:
        """All messages so far."""
        return self._session.memory.get_all()

    def reset(self) -> None:
        """Forget the conversation and what was recommended in it.

        A turn under way is not waited for: it ends with its answer, of which nothing is remembered.
        """
        self._session.reset()

    # -- one turn --------------------------------------------------------------------------------------

    def _talk_messages(self, dialogue: Sequence[ChatMessage]) -> list[ChatMessage]:
        domain = self.query_engine.domain
        system = self._talk_prompt.format(item_noun=domain.noun, item_plural=domain.plural)
        assert self._talk is not None
        cut = self._talk.measure.tail
        newest = [
            ChatMessage(role=m.role, content=cut(one_line(m.content or ""), _TALK_TOKENS).strip())
            for m in to_messages(dialogue)[-_TALK_MESSAGES:]
        ]
        return [ChatMessage(role=MessageRole.SYSTEM, content=system), *newest]

    def _reply(self, dialogue: Sequence[ChatMessage], barred: Sequence[str]) -> Reply:
        if self._talk is not None and self._is_small_talk is not None and self._is_small_talk(dialogue):
            text = self._talk.generate([self._talk_messages(dialogue)], max_new_tokens=48)[0][0]
            return Reply(whole_sentences(text), None, None)
        found = self.query_engine.recommend(dialogue, exclude_ids=barred)
        response = self.query_engine.answer(found)
        return Reply(str(response), found, response)

    async def _areply(self, dialogue: Sequence[ChatMessage], barred: Sequence[str]) -> Reply:
        if self._talk is not None and self._is_small_talk is not None:
            small = await asyncio.to_thread(self._is_small_talk, dialogue)
            if small:
                messages = await asyncio.to_thread(self._talk_messages, dialogue)
                text = (await self._talk.agenerate([messages], max_new_tokens=48))[0][0]
                return Reply(whole_sentences(text), None, None)
        found = await self.query_engine.arecommend(dialogue, exclude_ids=barred)
        response = await self.query_engine.aanswer(found)
        return Reply(await text_of(response), found, response)

    def _turn_reply(
        self,
        message: str,
        chat_history: list[ChatMessage] | None,
        check: Callable[[], None] | None = None,
    ) -> Reply:
        user = to_messages(message)[0]  # refuses an empty message before the memory changes
        with self._turn, self.query_engine.turn():
            turn = self._session.begin(user, chat_history)
            reply = self._reply(self._session.dialogue(turn), turn.barred)
            if check is not None:
                check()
            # Only now: a turn that failed leaves the memory as it was.
            self._session.remember(turn, reply)
        return reply

    async def _aturn_reply(self, message: str, chat_history: list[ChatMessage] | None) -> Reply:
        user = to_messages(message)[0]
        # Waiting in threads would use up the very threads that the turn under way needs.
        while not self._turn.acquire(blocking=False):
            await asyncio.sleep(_POLL)
        try:
            with self.query_engine.turn():
                turn = self._session.begin(user, chat_history)
                reply = await self._areply(await self._session.adialogue(turn), turn.barred)
                await self._session.aremember(turn, reply)
        finally:
            self._turn.release()
        return reply

    # -- LlamaIndex ------------------------------------------------------------------------------------

    @trace_method("chat")
    def chat(self, message: str, chat_history: list[ChatMessage] | None = None) -> AgentChatResponse:
        """Answer a message.

        Parameters
        ----------
        chat_history
            Replaces the memory where given, as in LlamaIndex's own engines.

        Raises
        ------
        InputError
            If the message is empty; the memory is then as it was.
        """
        return as_response(self._turn_reply(message, chat_history))

    @trace_method("chat")
    async def achat(self, message: str, chat_history: list[ChatMessage] | None = None) -> AgentChatResponse:
        """Answer a message without blocking the event loop."""
        return as_response(await self._aturn_reply(message, chat_history))

    @trace_method("chat")
    def stream_chat(self, message: str, chat_history: list[ChatMessage] | None = None) -> ReGeSChatStream:
        """Answer a message piece by piece.

        Where the item expert reasons (``mode="reason"``), its reasoning comes as it is written, and then the
        answer. Else the item is chosen before the first word: what is streamed is its presentation. Who stops
        reading while the reasoning comes ends the turn, of which nothing is remembered; behind it, all is.
        """
        if not self._reasons:
            return finished_stream(self._turn_reply(message, chat_history))
        turn = LiveTurn(lambda check: self._turn_reply(message, chat_history, check))
        try:
            first = turn.next()
        except BaseException:
            turn.leave()
            raise
        return live_stream(turn, first) if isinstance(first, str) else finished_stream(first)

    @trace_method("chat")
    async def astream_chat(
        self, message: str, chat_history: list[ChatMessage] | None = None
    ) -> ReGeSChatStream:
        """Answer a message piece by piece without blocking the event loop; see `stream_chat`."""
        if not self._reasons:
            return finished_stream(await self._aturn_reply(message, chat_history), asynchronous=True)
        turn = AsyncLiveTurn(lambda: self._aturn_reply(message, chat_history))
        try:
            first = await turn.next()
        except BaseException:
            await turn.leave()
            raise
        if isinstance(first, str):
            return alive_stream(turn, first)
        return finished_stream(first, asynchronous=True)

    @property
    def _reasons(self) -> bool:
        return self.query_engine.rerank.reasoning is not None


def _encoder_of(retriever: BaseRetriever | None) -> BaseEmbedding | None:
    return retriever._embed_model if isinstance(retriever, VectorIndexRetriever) else None
