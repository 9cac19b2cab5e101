"""What a turn costs with everything of the fusion on, beside the paper's pipeline alone.

    OMP_NUM_THREADS=1 python benchmarks/turn.py --turns 10 --check

Over the demo films, with the embedded models and the demo dialogues, in one process:

- ``alone``    the paper: LLM_QR, the retriever's candidates, LLM_G over all of them
- ``fusion``   as `reges recommend` does it: LLM_QR, all candidate sources, the final choice
- ``all``      the same with LLM_G asked as well, as where the final choice gives it a weight

Figures are process CPU seconds, which other work on the machine disturbs less than wall time. Each dialogue
goes through all three before the next one, so that a slow minute hits all of them; a ratio is the median over
the dialogues of cost divided by that of ``alone`` for the same dialogue. ``--check`` ends with status 1 if
``all`` costs more than 1.3 times ``alone``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time

from reges_index import ItemCatalog, ReGeSQueryEngine
from reges_index.catalog import demo_catalog
from reges_index.fusion import ChoiceWeights, FusionModel

LIMIT = 1.3
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


def measure(turns: int, top_k: int) -> dict[str, object]:
    """Return CPU seconds of each way and their ratios to ``alone``."""
    catalog = ItemCatalog.from_items(demo_catalog("films"), name="films")
    shipped = FusionModel.default()
    asked = shipped.with_choice(ChoiceWeights(retrieval=1.0, model=0.1))
    engines = {
        name: ReGeSQueryEngine.from_defaults(catalog, similarity_top_k=top_k, fusion=fusion)
        for name, fusion in (("alone", None), ("fusion", shipped), ("all", asked))
    }
    everything = dialogues(turns)
    for engine in engines.values():  # models and sources are loaded on first use
        engine.recommend(everything[0])
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for dialogue in everything:
        for name, engine in engines.items():
            start = time.process_time()
            engine.recommend(dialogue)
            seconds[name].append(time.process_time() - start)
    ratios = {
        name: statistics.median(a / b for a, b in zip(its, seconds["alone"], strict=True))
        for name, its in seconds.items()
    }
    return {
        "turns": turns,
        "candidates": top_k,
        "cpu_seconds": {name: round(statistics.median(its), 3) for name, its in seconds.items()},
        "ratio_to_alone": {name: round(value, 3) for name, value in ratios.items()},
    }


def main() -> int:
    """Measure and print; with ``--check`` say by the exit status whether the limit holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--top-k", type=int, default=50)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    found = measure(args.turns, args.top_k)
    print(json.dumps(found, indent=2))
    ratios = found["ratio_to_alone"]
    assert isinstance(ratios, dict)
    return int(args.check and ratios["all"] > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
