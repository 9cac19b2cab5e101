"""Many chats at once over a catalog that is swapped all the while; see test_soak.py for what must hold.

Runs alone too: ``REGES_SOAK=full python -m tests.soak.soak`` prints what was counted as JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters

from reges_index import Item, LiveCatalog, QueryDecoding, ReGeSChatEngine, ReGeSQueryEngine
from reges_index.query_expert.transform import ReGeSQueryTransform
from tests.catalog.hashing import HashingEmbedding
from tests.tiny import tiny_lm

SESSIONS = 16
FILTERED_SINCE = 1980
WARM_TURNS = 100
# After so many turns a session begins another conversation, as people do.
_CONVERSATION = 6
_TOP_K = 4
_WISHES = ("something scary", "no, funnier", "a quiet drama", "with robots", "an old one", "for children")


@dataclass(frozen=True)
class Size:
    turns: int
    swaps: int

    @classmethod
    def chosen(cls) -> Size:
        """The whole soak if ``REGES_SOAK=full``, else one that a CI run can afford."""
        return cls(1000, 50) if os.environ.get("REGES_SOAK") == "full" else cls(150, 8)


@dataclass
class Outcome:
    """What a soak has counted; ``problems`` must be empty."""

    turns: int = 0
    swaps: int = 0
    rollbacks: int = 0
    turns_that_saw_a_swap: int = 0
    turns_begun_during_a_switch: int = 0
    turns_by_catalog: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    rss_after_warm: int = 0
    rss_at_end: int = 0
    seconds: float = 0.0

    @property
    def growth(self) -> float:
        """Memory at the end beside that after the first turns, as a share of the latter."""
        return self.rss_at_end / self.rss_after_warm - 1


def films(side: str, count: int = 40) -> list[Item]:
    """One of two catalogs that have no item in common; the side is the first letter of every id."""
    genres = ("Horror", "Comedy", "Drama", "Sci-Fi", "Family")
    return [
        Item(
            id=f"{side}{n}",
            title=f"{side.upper()} film {n}",
            year=1960 + n,
            genres=[genres[n % 5]],
            abstract=f"A {genres[n % 5].lower()} film of the year {1960 + n}.",
        )
        for n in range(count)
    ]


def resident() -> int:
    """Memory of the process in bytes, after what is garbage is gone."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Soak:
    """One run; `outcome` tells how it went."""

    def __init__(self, folder: Path, size: Size) -> None:
        self.size = size
        self.outcome = Outcome()
        self.sides = {side: films(side) for side in "ab"}
        self.live = LiveCatalog.from_items(
            self.sides["a"], persist_dir=folder / "store", name="films", embed_model=HashingEmbedding()
        )
        lm = tiny_lm()
        engine = ReGeSQueryEngine.from_defaults(
            self.live,
            llm=lm,
            query_transform=ReGeSQueryTransform(lm, decoding=QueryDecoding(max_new_tokens=4)),
            similarity_top_k=_TOP_K,
        )
        since = MetadataFilter(key="year", value=FILTERED_SINCE, operator=FilterOperator.GTE)
        filtered = engine.with_filters(MetadataFilters(filters=[since]))
        # Every other session has a filter that must hold for all that it is shown.
        self.engines = [filtered if number % 2 else engine for number in range(SESSIONS)]
        self._numbers = iter(range(size.turns))
        # Which of the two catalogs a version holds, by its name: known before the version can go live.
        self._sides = {"films": "a"}
        self._is_over = False

    def run(self) -> Outcome:
        start = time.perf_counter()
        asyncio.run(self._run())
        self.outcome.rss_at_end = resident()
        self.outcome.seconds = time.perf_counter() - start
        return self.outcome

    async def _run(self) -> None:
        swapping = asyncio.create_task(self._swap())
        await asyncio.gather(*(self._session(number) for number in range(SESSIONS)))
        self._is_over = True
        await swapping

    # -- the one who swaps -------------------------------------------------------------------------------

    async def _swap(self) -> None:
        following = 1
        for number in range(self.size.swaps):
            # Spread over the whole run.
            while self.outcome.turns < number * self.size.turns // self.size.swaps and not self._is_over:
                await asyncio.sleep(0.01)
            if number % 5 == 4:
                await asyncio.to_thread(self.live.rollback)
                self.outcome.rollbacks += 1
            else:
                side = "b" if self._sides[self.live.current.name] == "a" else "a"
                following += 1
                self._sides[f"films.v{following}"] = side
                made = await asyncio.to_thread(self.live.swap, self.sides[side])
                assert made.number == following, made
            await asyncio.to_thread(self.live.prune, 1)
            self.outcome.swaps += 1

    # -- those who chat ----------------------------------------------------------------------------------

    async def _session(self, number: int) -> None:
        # The encoder of these tests cannot tell small talk from a wish.
        chat = ReGeSChatEngine.from_defaults(query_engine=self.engines[number], small_talk=False)
        said: list[str] = []
        for turn in self._numbers:
            if turn == WARM_TURNS:
                self.outcome.rss_after_warm = resident()
            message = f"{_WISHES[turn % len(_WISHES)]}, says session {number} in turn {turn}"
            said.append(message)
            try:
                await self._turn(chat, message, is_filtered=number % 2 == 1)
            except Exception as error:  # counted: the soak goes on, and fails at its end
                self.outcome.problems.append(f"turn {turn}: {error!r}")
            self.outcome.turns += 1
            if len(said) == _CONVERSATION:
                self._check_memory(chat, said, number)
                chat.reset()
                said = []
        self._check_memory(chat, said, number)

    async def _turn(self, chat: ReGeSChatEngine, message: str, *, is_filtered: bool) -> None:
        before = self.live.current
        asked = asyncio.create_task(chat.achat(message))
        await asyncio.sleep(0)  # the task runs to its first wait, by which it has pinned its version
        after = self.live.current
        response = await asked
        shown = {node.node_id[0] for node in response.source_nodes}
        problems = self.outcome.problems
        if len(response.source_nodes) != _TOP_K:
            problems.append(f"{message}: {len(response.source_nodes)} candidates, not {_TOP_K}")
        begun_with = {self._sides[catalog.name] for catalog in (before, after)}
        if before is not after:
            self.outcome.turns_begun_during_a_switch += 1
        if len(shown) != 1 or not shown <= begun_with:
            problems.append(f"{message}: items of {shown} while {begun_with} was live")
        if self.live.current is not after:
            self.outcome.turns_that_saw_a_swap += 1
        if is_filtered and any(node.metadata["year"] < FILTERED_SINCE for node in response.source_nodes):
            problems.append(f"{message}: an item from before {FILTERED_SINCE}")
        self.outcome.turns_by_catalog.update(shown)

    def _check_memory(self, chat: ReGeSChatEngine, said: list[str], number: int) -> None:
        users = [message.content for message in chat.chat_history if message.role == "user"]
        if users != said or len(chat.chat_history) != 2 * len(said):
            self.outcome.problems.append(f"session {number} remembers {users}, but said {said}")


def main() -> Iterator[str]:
    """Run the soak and yield what was counted, as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        outcome = Soak(Path(folder), Size.chosen()).run()
    yield json.dumps({**vars(outcome), "growth": round(outcome.growth, 4)}, indent=2)


if __name__ == "__main__":
    print(*main())
