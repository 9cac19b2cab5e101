"""Short ways to dialogues, nodes, and a check that an event loop stayed free."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.schema import NodeWithScore

from reges_index import DialogueQueryBundle, Item, ReGeSRerank
from reges_index.item_expert import Ranking

BOTH_WAYS = pytest.mark.parametrize("asynchronous", [False, True])
"""The same in plain code and in an event loop."""


def chat(*texts: str) -> tuple[ChatMessage, ...]:
    """Messages of user and assistant in turn; the last is the user's."""
    roles = ["user" if (len(texts) - n) % 2 else "assistant" for n in range(len(texts))]
    return tuple(ChatMessage(role=role, content=text) for role, text in zip(roles, texts, strict=True))


def bundle(*texts: str) -> DialogueQueryBundle:
    return DialogueQueryBundle.from_dialogue(chat(*texts))


def item(id_: str, title: str, year: int | None = None, abstract: str = "", **fields: Any) -> Item:
    return Item(id=id_, title=title, year=year, abstract=abstract, **fields)


def nodes_of(items: Sequence[Item]) -> list[NodeWithScore]:
    """Nodes as a retriever gives them, scores falling from 0.9."""
    return [NodeWithScore(node=it.to_node(), score=0.9 - 0.01 * n) for n, it in enumerate(items)]


async def ranked(
    rerank: ReGeSRerank, items: Sequence[Item], wish: DialogueQueryBundle, asynchronous: bool, **known: Any
) -> Ranking:
    """What an item expert makes of some items, which a retriever has given in this order."""
    nodes = nodes_of(items)
    return await rerank.arank(nodes, wish, **known) if asynchronous else rerank.rank(nodes, wish, **known)


async def ticks_during(work: Awaitable[Any]) -> tuple[Any, int, float]:
    """Return the result, how often the loop came round meanwhile, and its longest pause as a share."""
    ticks, longest, stop = 0, 0.0, False

    async def tick() -> None:
        nonlocal ticks, longest
        while not stop:
            before = time.perf_counter()
            await asyncio.sleep(0.002)
            longest = max(longest, time.perf_counter() - before)
            ticks += 1

    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0)
    start = time.perf_counter()
    result = await work
    took = time.perf_counter() - start
    stop = True
    await ticker
    return result, ticks, longest / took
