"""What choosing one of k candidates costs, beside one forward of the same prompt.

    OMP_NUM_THREADS=1 python benchmarks/selection.py --threads 1 --repeats 5

Measured for each number of candidates and each prompt length, on the same candidates and the same model:

- ``prefill``    one forward of the prompt, cache kept: the unit
- ``score``      LocalLM.score: probabilities of every title, as one trie
- ``choose``     LocalLM.choose: greedy, limited to the titles
- ``generate``   LocalLM.generate: 16 free tokens, which may be no title at all
- ``separate``   a forward of prompt and title for each title; timed on a few titles and scaled up
- ``LLMRerank``, ``RankGPTRerank``   LlamaIndex's, through ReGeSLLM, and what became of their answer

Figures are process CPU seconds, which other work on the machine disturbs less than wall time. The methods
take turns, so that a slow minute hits all of them; a ratio is the median over the repeats of cost divided by
the same repeat's prefill. ``--check`` ends with status 1 if ``score`` misses its targets: 1.45 times prefill
at about 1,000 tokens, 1.25 times at about 4,000 (50 candidates).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from llama_index.core.llms import ChatMessage
from llama_index.core.postprocessor import LLMRerank
from llama_index.core.postprocessor.rankGPT_rerank import RankGPTRerank
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from reges_index.models.local_lm import LocalLM
from reges_index.models.scoring import prefill, score_separately

FILMS = Path(__file__).parents[1] / "reges_index" / "catalog" / "demo" / "films.jsonl"
TARGETS = {1000: 1.45, 4000: 1.25}
SEPARATE_SAMPLE = 3

DIALOGUE = (
    "seeker: Hi! I am looking for a film for tonight. recommender: Sure, what do you like? "
    "seeker: Something with a clever plot, a bit dark, like Se7en or Memento. No musicals please."
)
INSTRUCTION = (
    "A list of candidate movies and their abstracts are provided. According to the conversation history, "
    "select the top movie recommendation for the seeker from the candidate list. Only output one movie name."
)


@dataclass(frozen=True)
class Case:
    """One question: k candidates whose texts fill about so many tokens."""

    titles: list[str]
    texts: list[str]
    prompt: list[ChatMessage]
    tokens: int


def make_case(lm: LocalLM, films: list[dict[str, Any]], k: int, target: int) -> Case:
    """Pad or cut the abstracts evenly until the prompt has about ``target`` tokens."""
    # As the item expert labels its candidates: the title, with the year only where titles repeat.
    names = [film["title"] for film in films[:k]]
    titles = [
        name if names.count(name) == 1 else f"{name} ({film['year']})"
        for name, film in zip(names, films, strict=False)
    ]
    # A film's own abstract first, then those of others: real prose of any length.
    words = [" ".join(f["abstract"] for f in films[i:] + films[:i]).split() for i in range(k)]

    def build(length: int) -> Case:
        texts = [f"{title}: {' '.join(own[:length])}" for title, own in zip(titles, words, strict=True)]
        listed = "\n".join(texts)
        content = f"{INSTRUCTION}\n\nA list of candidate abstracts:\n{listed}\n\nThe history: {DIALOGUE}"
        prompt = [ChatMessage(role="user", content=content)]
        return Case(titles, texts, prompt, len(lm.encode(prompt)))

    low, high = 0, 1000
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if build(middle).tokens <= target else (low, middle - 1)
    return build(low)


def outcome(rerank: Callable[[], list[NodeWithScore]]) -> str:
    """Run a stock reranker and say what became of its answer."""
    try:
        nodes = rerank()
    except (ValueError, IndexError, KeyError) as problem:
        return f"{type(problem).__name__}: {problem}"[:80]
    return f"{len(nodes)} nodes"


def methods(lm: LocalLM, case: Case) -> dict[str, tuple[Callable[[], Any], float]]:
    """Name -> what to time, and by how much to multiply its cost."""
    llm = lm.as_llm(max_new_tokens=256)
    nodes = [
        NodeWithScore(node=TextNode(text=text), score=1.0 / rank) for rank, text in enumerate(case.texts, 1)
    ]
    bundle = QueryBundle(DIALOGUE)
    k = len(case.titles)
    llm_rerank = LLMRerank(llm=llm, choice_batch_size=k, top_n=k)
    rank_gpt = RankGPTRerank(llm=llm, top_n=k)
    sample = [lm.encode_answer(title) for title in case.titles[:SEPARATE_SAMPLE]]

    def read() -> None:
        with torch.inference_mode():
            prefill(lm.model, lm.encode(case.prompt))

    def separate() -> None:
        with torch.inference_mode():
            score_separately(lm.model, lm.encode(case.prompt), sample)

    return {
        "prefill": (read, 1.0),
        "score": (lambda: lm.score(case.prompt, case.titles), 1.0),
        "choose": (lambda: lm.choose(case.prompt, case.titles), 1.0),
        "generate": (lambda: lm.generate([case.prompt], max_new_tokens=16), 1.0),
        "separate": (separate, k / len(sample)),
        "LLMRerank": (lambda: outcome(lambda: llm_rerank.postprocess_nodes(nodes, bundle)), 1.0),
        "RankGPTRerank": (lambda: outcome(lambda: rank_gpt.postprocess_nodes(nodes, bundle)), 1.0),
    }


def measure(lm: LocalLM, case: Case, repeats: int, only: set[str]) -> dict[str, dict[str, Any]]:
    """Time all methods in turns; returns name -> CPU seconds, ratio to prefill, outcome."""
    chosen = {name: method for name, method in methods(lm, case).items() if name == "prefill" or name in only}
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    outcomes: dict[str, str] = {}
    names = list(chosen)
    for repeat in range(-1, repeats):
        # The first round only warms up; the order turns, so that no method always follows the same other.
        shift = repeat % len(names)
        for name in names[shift:] + names[:shift]:
            if repeat < 0 and name not in ("prefill", "score", "choose"):
                continue
            run, factor = chosen[name]
            started = time.process_time()
            result = run()
            if repeat >= 0:
                seconds[name].append((time.process_time() - started) * factor)
            if isinstance(result, str):
                outcomes[name] = result
    return {
        name: {
            "cpu_seconds": statistics.median(values),
            "ratio": statistics.median(
                value / unit for value, unit in zip(values, seconds["prefill"], strict=True)
            ),
            "outcome": outcomes.get(name, ""),
        }
        for name, values in seconds.items()
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    known = ["score", "choose", "generate", "separate", "LLMRerank", "RankGPTRerank"]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="folder or hub name; the embedded base by default")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--candidates", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1000, 4000])
    parser.add_argument("--methods", nargs="+", choices=known, default=known)
    parser.add_argument("--films", type=Path, default=FILMS, help="JSONL with title, year, abstract")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--check", action="store_true", help="exit with 1 if score misses its targets")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    lm = LocalLM.from_pretrained(options.model, dtype=options.dtype, device=options.device)
    films = [json.loads(line) for line in options.films.read_text(encoding="utf-8").splitlines()]
    # Not the first fifty: the file is sorted, and neighbours share the beginnings of their titles.
    films = films[::7] + films[3::7]
    results, missed = [], []
    for target in options.tokens:
        for k in options.candidates:
            case = make_case(lm, films, k, target)
            costs = measure(lm, case, options.repeats, set(options.methods))
            row = {"candidates": k, "prompt_tokens": case.tokens, "methods": costs}
            results.append(row)
            limit = TARGETS.get(target)
            if k == 50 and limit and "score" in costs and costs["score"]["ratio"] > limit:
                missed.append(f"{case.tokens} tokens: {costs['score']['ratio']:.2f} > {limit}")
            if not options.json:
                print(f"\n{k} candidates, {case.tokens} tokens of prompt (median of {options.repeats})")
                for name, cost in costs.items():
                    figures = f"{cost['cpu_seconds']:>9.2f} s  {cost['ratio']:>7.2f} x"
                    print(f"  {name:<14} {figures}  {cost['outcome']}")
                sys.stdout.flush()
    if options.json:
        setting = {"model": lm.name, "dtype": str(lm.model.dtype), "threads": options.threads}
        print(
            json.dumps(setting | {"repeats": options.repeats, "results": results, "missed": missed}, indent=2)
        )
    elif missed:
        print("\nscore misses its target: " + "; ".join(missed))
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
