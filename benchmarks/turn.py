"""Where the time of a turn goes, for three configurations.

    OMP_NUM_THREADS=1 python -m benchmarks.turn --turns 10

Over the demo films and demo dialogues, in one process:

- ``embedded``  the default: the fusion retrieves, and there is neither query nor item expert
- ``own LLM``   an LLM of the user's own, here a server on this machine that answers at once, so that what is
  left is what this package adds to the time of the LLM itself
- ``local``     both experts are the embedded SmolLM2-135M over plain vectors, as in the paper

A row is the median over the turns, in milliseconds of wall time; ``first`` is the first turn, in which models
and the catalog's features are prepared. ``--check`` ends with status 1 if the embedded default takes more
than 300 ms of one core.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time

from reges_index import ItemCatalog, ReGeSQueryEngine
from reges_index.catalog import demo_catalog
from tests.servers.scripted import scripted_server, sensible

LIMIT = 0.3
STAGES = ("query", "retrieval", "rerank")
WISHES = (
    "Something tense like Heat, but in space?",
    "I loved Alien and The Thing. More slow horror please, nothing with zombies.",
    "A comedy for a family evening, something newer than 2005.",
    "I have seen all of Hitchcock. What else is there with that kind of suspense?",
    "A romance that is not too sweet, perhaps set in Paris.",
)
ANSWER = "Sure, what did you like lately?"


def dialogues(count: int) -> list[list[dict[str, str]]]:
    """Return dialogues of one to seven messages."""
    made = []
    for number in range(count):
        said = []
        for step in range(1 + number % 4):
            if step:
                said.append({"role": "assistant", "content": ANSWER})
            said.append({"role": "user", "content": WISHES[(number + step) % len(WISHES)]})
        made.append(said)
    return made


def measure(engine: ReGeSQueryEngine, turns: int) -> dict[str, float]:
    """Return milliseconds of each stage, of a whole turn and of the first one, and its processor time."""
    first, *others = dialogues(turns + 1)
    start = time.perf_counter()
    engine.recommend(first)
    rows: dict[str, list[float]] = {name: [] for name in (*STAGES, "answer", "turn", "cpu")}
    took = time.perf_counter() - start
    for dialogue in others:
        start, cpu = time.perf_counter(), time.process_time()
        found = engine.recommend(dialogue)
        wording = time.perf_counter()
        engine.answer(found)
        end = time.perf_counter()
        for stage in STAGES:
            rows[stage].append(found.timings[stage])
        rows["answer"].append(end - wording)
        rows["turn"].append(end - start)
        rows["cpu"].append(time.process_time() - cpu)
    return {"first": 1000 * took, **{name: 1000 * statistics.median(its) for name, its in rows.items()}}


def main() -> int:
    """Measure and print; with ``--check`` say by the exit status whether the limit holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--top-k", type=int, default=50)
    parser.add_argument("--only", choices=("embedded", "own LLM", "local"), action="append")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    catalog = ItemCatalog.from_items(demo_catalog("films"), name="films")
    with scripted_server() as server:
        server.answer = sensible
        configurations = {
            "embedded": {},
            "own LLM": {"llm": f"openai-like:m@{server.url}", "mode": "rank"},
            "local": {"llm": "embedded", "retriever": "vectors"},
        }
        found = {
            name: measure(
                ReGeSQueryEngine.from_defaults(catalog, similarity_top_k=args.top_k, **options), args.turns
            )
            for name, options in configurations.items()
            if not args.only or name in args.only
        }
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        columns = list(next(iter(found.values())))
        print(f"{'ms':<10}" + "".join(f"{name:>11}" for name in columns))
        for name, row in found.items():
            print(f"{name:<10}" + "".join(f"{row[column]:>11.1f}" for column in columns))
    return int(args.check and "embedded" in found and found["embedded"]["cpu"] > 1000 * LIMIT)


if __name__ == "__main__":
    sys.exit(main())
