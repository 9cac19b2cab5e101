"""Our film shelf: a chat that remembers what was said."""

from llama_index.core.chat_engine import CondensePlusContextChatEngine
from llama_index.core.memory import Memory

from tests.apps.query_app_before import build_index

__all__ = ["build_chat", "build_index", "talk"]


def build_chat(index, llm):
    return CondensePlusContextChatEngine.from_defaults(
        retriever=index.as_retriever(similarity_top_k=6),
        llm=llm,
        memory=Memory.from_defaults(token_limit=3000),
    )


def talk(chat, messages):
    answers = []
    for message in messages:
        stream = chat.stream_chat(message)
        answers.append("".join(stream.response_gen))
    return answers, [node.metadata["title"] for node in stream.source_nodes]
