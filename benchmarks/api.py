"""What a turn with an LLM behind an API costs, beside LlamaIndex's own parts; the server is on this machine.

    OMP_NUM_THREADS=1 python -m benchmarks.api cost    # requests and tokens for ranking 50 candidates
    OMP_NUM_THREADS=1 python -m benchmarks.api start   # CPU time of imports, and of `reges recommend`
    OMP_NUM_THREADS=1 python -m benchmarks.api users   # 32 turns at once, 200 ms a request

Everything is printed beside a ratio, because seconds depend on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.turn import dialogues
from tests.servers.scripted import ScriptedServer, asked_for, scripted_server, sensible

USERS, DELAY_S = 32, 0.2
STARTS = {
    "stock app": "import tests.apps.query_app_before, tests.apps.chat_app_before; from llama_index.core."
    "postprocessor import LLMRerank; import llama_index.llms.openai_like",
    "our engine names": "from reges_index import ReGeSQueryEngine, ReGeSChatEngine, ReGeSWorkflow, "
    "ReGeSRerank, ReGeSRetriever, ReGeSQueryTransform, ReGeSSynthesizer, ExcludeItems, ItemCatalog, "
    "LiveCatalog, as_query_engine_tool, load_pipeline, save_pipeline; "
    "from reges_index.fusion import FusionRetriever",
}


def llm_of(server: ScriptedServer) -> Any:
    """Return a client of the server."""
    from llama_index.llms.openai_like import OpenAILike

    return OpenAILike(
        model="m", api_base=server.url, api_key="none", is_chat_model=True, context_window=128_000, timeout=60
    )


def cost() -> list[tuple[str, float, float, float]]:
    """Return of each reranker the requests, tokens read and tokens written a turn, on the same candidates."""
    from llama_index.core.postprocessor import LLMRerank
    from llama_index.core.postprocessor.rankGPT_rerank import RankGPTRerank
    from llama_index.core.utils import get_tokenizer

    from reges_index import DialogueQueryBundle, ItemCatalog, ReGeSQueryEngine, ReGeSRerank, demo_catalog

    count = get_tokenizer()
    catalog = ItemCatalog.from_items(demo_catalog("films"))
    retriever = ReGeSQueryEngine.from_defaults(catalog, similarity_top_k=50)
    bundles = map(DialogueQueryBundle.from_dialogue, dialogues(8))
    turns = [(retriever.retrieve(bundle), bundle) for bundle in bundles]
    rows = []
    with scripted_server() as server:
        server.answer, llm = sensible, llm_of(server)
        for name, rerank in {
            'ReGeSRerank, mode="rank"': ReGeSRerank(llm, mode="rank"),
            'ReGeSRerank, mode="score" (letters)': ReGeSRerank(llm, mode="score"),
            "LLMRerank": LLMRerank(llm=llm, top_n=10),
            "LLMRerank, one batch": LLMRerank(llm=llm, top_n=10, choice_batch_size=50),
            "RankGPTRerank": RankGPTRerank(llm=llm, top_n=10),
        }.items():
            server.requests.clear()
            for nodes, bundle in turns:
                assert rerank.postprocess_nodes(nodes, bundle)
            texts = [" ".join(m["content"] for m in body["messages"]) for body in server.requests]
            read = sum(len(count(text)) for text in texts)
            written = sum(
                1 if asked_for(body) == "letters" else len(count(str(sensible(body))))
                for body in server.requests
            )
            rows.append((name, *(total / len(turns) for total in (len(texts), read, written))))
    return rows


def cpu_seconds(words: list[str], repeats: int = 3) -> float:
    """Return the CPU seconds that a command takes from its start to its end, the median of some runs."""
    took = []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(words, check=True, capture_output=True, cwd=Path(__file__).parents[1])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(took)


def start() -> list[tuple[str, float]]:
    """Return CPU seconds of imports, each in a fresh process, and of whole commands over the demo films."""
    rows = [(name, cpu_seconds([sys.executable, "-c", program])) for name, program in STARTS.items()]
    both = "; ".join(STARTS.values())
    rows.append(("stock app and our engine names", cpu_seconds([sys.executable, "-c", both])))
    with tempfile.TemporaryDirectory() as folder, scripted_server() as server:
        server.answer = sensible
        os.environ["OPENAI_LIKE_API_KEY"] = "none"
        reges = [sys.executable, "-m", "reges_index.cli"]
        wish = ["recommend", "a quiet film about the sea", "--store", folder]
        index = [*reges, "index", "demo:films", "--store", folder]
        rows.append(("reges index, demo films", cpu_seconds(index, 1)))
        rows.append(("reges recommend", cpu_seconds([*reges, *wish])))
        llm = ["--llm", f"openai-like:m@{server.url}"]
        rows.append(("reges recommend, an LLM behind an API", cpu_seconds([*reges, *wish, *llm])))
    return rows


def users() -> list[tuple[str, float]]:
    """Return the seconds of one chat's turn, and of 32 at once with two threads for all of them."""
    from reges_index import ItemCatalog, ReGeSChatEngine, ReGeSQueryEngine, demo_catalog

    def slowly(body: dict[str, Any]) -> Any:
        time.sleep(DELAY_S)
        return sensible(body)

    async def at_once(engine: Any, count: int) -> tuple[float, float]:
        # If a turn held its thread while a request is out, two threads would make the others wait.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        chats = [ReGeSChatEngine.from_defaults(query_engine=engine) for _ in range(count)]
        wishes = [dialogue[-1]["content"] for dialogue in dialogues(count)]
        begun, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(chat.achat(wish) for chat, wish in zip(chats, wishes, strict=True)))
        return time.perf_counter() - begun, time.process_time() - cpu

    with scripted_server() as server:
        server.answer = slowly
        catalog = ItemCatalog.from_items(demo_catalog("films"))
        options: dict[str, Any] = {"mode": "reason", "write_query": "always"}  # three requests, one by one
        engine = ReGeSQueryEngine.from_defaults(catalog, llm=llm_of(server), **options)
        asyncio.run(at_once(engine, 1))
        (one, _), (all_of_them, cpu) = (asyncio.run(at_once(engine, count)) for count in (1, USERS))
    return [("1 turn", one), (f"{USERS} turns at once", all_of_them), ("processor time of these", cpu)]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("cost", "start", "users"))
    what = parser.parse_args().what
    if what == "cost":
        rows = cost()
        [(_, _, read, written), *_] = rows
        print(f"{'a turn, 50 candidates':36}{'requests':>9}{'tokens in':>11}{'':7}{'tokens out':>11}")
        for name, requests, its, out in rows:
            print(f"{name:36}{requests:9.1f}{its:11.0f}{its / read:6.2f}x{out:11.0f}{out / written:6.2f}x")
        return 0
    seconds = start() if what == "start" else users()
    print(f"{'CPU s' if what == 'start' else 's':>46}{'ratio':>7}")
    for name, its in seconds:
        print(f"{name:38}{its:8.2f}{its / seconds[0][1]:7.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
