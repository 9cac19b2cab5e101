"""Measure both experts on the development sets: the figures of RESULTS.md and of the manifests.

    python finetune/evaluate_dev.py queries --adapter runs/embedded/query-expert --limit 0
    python finetune/evaluate_dev.py retrieval
    python finetune/evaluate_dev.py selection --adapter runs/embedded/item-expert --name hard --sizes 10 50
    python finetune/evaluate_dev.py end-to-end --adapter runs/embedded/item-expert --name hard

Every step keeps what it made in --work (texts written, ranks found) and goes on from there.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reges_index.catalog import read_items
from reges_index.catalog.encoder import embed_queries, resolve_encoder
from reges_index.catalog.item import Item
from reges_index.dialogue import HFMeasure, Turn, one_line, read_turns, render_history
from reges_index.evaluation.protocol import PROTOCOLS, make_pairs
from reges_index.evaluation.stats import ClusterBootstrap
from reges_index.item_expert.prompt import PromptBudget, build_selection_prompt
from reges_index.models.local_lm import LocalLM
from reges_index.query_expert.prompt import build_query_prompt
from reges_index.query_expert.transform import clean_query

CUTS = (1, 5, 20, 50)
# Name -> options of LocalLM.generate.
DECODINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "no3gram": {"no_repeat_ngram_size": 3},
    "penalty": {"repetition_penalty": 1.15},
    "sampled4": {"temperature": 0.7, "num_return_sequences": 4, "seed": 0, "no_repeat_ngram_size": 3},
}


class Domain:
    """A data set's catalog and dev turns, and vectors that are made once."""

    def __init__(self, name: str, data: Path, work: Path) -> None:
        self.name, self.work = name, work
        self.items = read_items(data / name / "catalog.jsonl")
        self.by_id = {item.id: item for item in self.items}
        self.turns = read_turns(data / name / "dev.jsonl")
        self._known: dict[str, np.ndarray] = {}

    def catalog_vectors(self) -> np.ndarray:
        """Return unit vectors of all items, shape (items, dimension)."""
        file = self.work / f"{self.name}.catalog.npy"
        if not file.exists():
            texts = [item.text() for item in self.items]
            vectors = resolve_encoder().get_text_embedding_batch(texts)
            np.save(file, _unit(np.asarray(vectors, dtype=np.float32)))
        return np.load(file)

    def query_vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors of texts, shape (texts, dimension)."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known |= dict(
                zip(new, _unit(np.asarray(embed_queries(resolve_encoder(), new))), strict=True)
            )
        return np.stack([self._known[text] for text in texts])

    def rank(self, vectors: np.ndarray) -> list[list[str]]:
        """Return ids of all items for each query vector, nearest first."""
        order = np.argsort(-(vectors @ self.catalog_vectors().T), axis=1, kind="stable")
        return [[self.items[i].id for i in row] for row in order]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def _rows(file: Path) -> dict[str, Any]:
    return {r["id"]: r for r in map(json.loads, file.open())} if file.exists() else {}


def last(turn: Turn, count: int) -> str:
    """Return the newest messages as one text."""
    return " ".join(one_line(m.content) for m in turn.messages[-count:])


# -- writing queries -----------------------------------------------------------------------------------


def write_queries(args: argparse.Namespace) -> None:
    """Let LLM_QR (and, as Direct Prompt, the untrained model) write a query for every dev turn."""
    lm = LocalLM.from_pretrained(adapters={"qr": args.adapter} if args.adapter else None)
    measure = HFMeasure(lm.tokenizer)
    for name in args.domains:
        domain = Domain(name, args.data, args.work)
        for decoding in args.decodings:
            label = f"{args.name}-{decoding}"
            file = args.work / f"{name}.{label}.jsonl"
            done = _rows(file)
            turns = [turn for turn in domain.turns if turn.id not in done][: args.limit or None]
            for start in range(0, len(turns), 64):
                part = turns[start : start + 64]
                prompts = [
                    build_query_prompt(t.chat, max_history_tokens=args.history, measure=measure).messages
                    for t in part
                ]
                options = {"max_new_tokens": 48, "batch_size": 16, **DECODINGS[decoding]}
                adapter = "qr" if args.adapter else None
                answers = lm.generate(prompts, adapter=adapter, **options)
                with file.open("a") as out:
                    for turn, own in zip(part, answers, strict=True):
                        row = {"id": turn.id, "queries": [clean_query(a.text) for a in own]}
                        out.write(json.dumps(row) + "\n")
                print(name, label, start + len(part), "of", len(turns), file=sys.stderr, flush=True)


# -- retrieval -----------------------------------------------------------------------------------------


def systems(domain: Domain) -> dict[str, Callable[[Turn], list[list[str]]]]:
    """Return name -> function of a turn that gives groups of texts.

    The vectors of a group are averaged, then those of the groups.
    """
    made: dict[str, Callable[[Turn], list[list[str]]]] = {
        "Original": lambda t: [[render_history(t.chat).text]],
        "last message": lambda t: [[last(t, 1)]],
        "last three messages": lambda t: [[last(t, 3)]],
    }
    for file in sorted(domain.work.glob(f"{domain.name}.*.jsonl")):
        name = file.name.split(".")[1]
        rows = _rows(file)
        if not all(turn.id in rows for turn in domain.turns):
            print(f"{file}: not every turn is in it, left out", file=sys.stderr)
            continue
        written = {key: [q for q in row["queries"] if q] or ["recommendation"] for key, row in rows.items()}
        made[name] = lambda t, w=written: [w[t.id]]
        for count in (1, 2, 3, 4):
            made[f"{name} + last {count}"] = lambda t, w=written, c=count: [w[t.id], [last(t, c)]]
            made[f"{name} & last {count} in one text"] = lambda t, w=written, c=count: [
                [f"{query} {last(t, c)}" for query in w[t.id]]
            ]
        made[f"{name} + Original"] = lambda t, w=written: [w[t.id], [render_history(t.chat).text]]
    return made


def hits(domain: Domain, rankings: Sequence[Sequence[str]], protocol: str) -> tuple[np.ndarray, Any]:
    """Return 1 where a pair's target is within a cut, shape (pairs, cuts), and the pairs."""
    pairs = make_pairs(domain.turns, protocol, domain.by_id)  # type: ignore[arg-type]
    found = np.zeros((len(pairs.target), len(CUTS)))
    for row, (turn, target) in enumerate(zip(pairs.turn, pairs.target, strict=True)):
        shown = [i for i in rankings[turn] if i not in pairs.excluded[turn]]
        rank = shown.index(target) + 1 if target in domain.by_id else len(domain.items) + 1
        found[row] = [rank <= cut for cut in CUTS]
    return found, pairs


def compare_retrieval(args: argparse.Namespace) -> None:
    """Print Recall of every system, with 95 % intervals over dialogues."""
    results: dict[str, Any] = {}
    for name in args.domains:
        domain = Domain(name, args.data, args.work)
        for label, groups_of in systems(domain).items():
            if args.only and label not in args.only:
                continue
            groups = [groups_of(turn) for turn in domain.turns]
            vectors = np.stack([
                np.mean([_unit(domain.query_vectors(g).mean(0, keepdims=True))[0] for g in own], axis=0)
                for own in groups
            ])  # fmt: skip
            rankings = domain.rank(vectors)
            for protocol in PROTOCOLS:
                found, pairs = hits(domain, rankings, protocol)
                estimates = ClusterBootstrap(pairs.dialogue, resamples=2000).estimate(found)
                results[f"{name} / {protocol} / {label}"] = {
                    f"R@{cut}": [round(e.value, 4), round(e.low, 4), round(e.high, 4)]
                    for cut, e in zip(CUTS, estimates, strict=True)
                } | {"pairs": len(found), "hits": found.sum(0).astype(int).tolist()}
    for label, row in results.items():
        cells = "  ".join(
            f"{row[f'R@{c}'][0]:.3f} [{row[f'R@{c}'][1]:.3f}, {row[f'R@{c}'][2]:.3f}]" for c in CUTS
        )
        print(f"{label:60s} {cells}  {row['hits']} of {row['pairs']}")
    (args.work / "retrieval.json").write_text(json.dumps(results, indent=1))


# -- choosing ------------------------------------------------------------------------------------------


def _rankings(domain: Domain, args: argparse.Namespace) -> list[list[str]]:
    groups = [systems(domain)[args.system](turn) for turn in domain.turns]
    vectors = [np.mean([domain.query_vectors(g).mean(0) for g in own], axis=0) for own in groups]
    return domain.rank(_unit(np.stack(vectors)))


class Chooser:
    """LLM_G in score mode over candidate lists."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.lm = LocalLM.from_pretrained(adapters={"g": args.adapter} if args.adapter else None)
        self.adapter = "g" if args.adapter else None
        self.measure = HFMeasure(self.lm.tokenizer)
        self.budget = PromptBudget(history=args.history, details=args.details)

    def scores(self, turn: Turn, items: Sequence[Item]) -> list[tuple[float, int]]:
        """Return log-probability of each candidate's name and its number of tokens."""
        prompt = build_selection_prompt(turn.chat, items, measure=self.measure, budget=self.budget)
        scored = self.lm.score(prompt.messages, list(prompt.labels), adapter=self.adapter)
        return [(score.logprob, score.num_tokens) for score in scored]


def select(args: argparse.Namespace) -> None:
    """Measure Item Generation Success: the true item forced into the list, at a place drawn by chance."""
    for name in args.domains:
        domain = Domain(name, args.data, args.work)
        rankings = _rankings(domain, args)
        pairs = make_pairs(domain.turns, "all", domain.by_id)
        order = list(range(len(pairs.target)))
        random.Random(1).shuffle(order)
        known = [i for i in order if pairs.target[i] in domain.by_id][: args.limit or None]
        for size in args.sizes:
            file = args.work / f"selection.{name}.{args.name}.{size}.jsonl"
            done, chooser = _rows(file), None
            for number in known:
                if str(number) in done:
                    continue
                chooser = chooser or Chooser(args)
                turn, target = domain.turns[pairs.turn[number]], pairs.target[number]
                wrong = [i for i in rankings[pairs.turn[number]] if i not in turn.targets][: size - 1]
                ids = [target, *wrong]
                random.Random(f"{number}/{size}").shuffle(ids)
                scores = chooser.scores(turn, [domain.by_id[i] for i in ids])
                row = {"id": str(number), "truth": ids.index(target), "scores": scores}
                with file.open("a") as out:
                    out.write(json.dumps(row) + "\n")
            rows = [r for r in _rows(file).values() if int(r["id"]) in set(known)]
            _print_choices(f"{name} {args.name} {size} candidates", rows, pairs)


def _print_choices(label: str, rows: Sequence[dict[str, Any]], pairs: Any) -> None:
    for penalty in (0.0, 0.5, 1.0):
        right = []
        for row in rows:
            value = [logprob / tokens**penalty for logprob, tokens in row["scores"]]
            right.append(float(int(np.argmax(value)) == row["truth"]))
        clusters = np.unique([pairs.dialogue[int(r["id"])] for r in rows], return_inverse=True)[1]
        print(f"{label}, length penalty {penalty}: {_show(right, clusters)}", flush=True)


def end_to_end(args: argparse.Namespace) -> None:
    """Measure Rec Success Rate: the pick among what was retrieved, beside the retriever's own first hit."""
    for name in args.domains:
        domain = Domain(name, args.data, args.work)
        rankings = _rankings(domain, args)
        for protocol in PROTOCOLS:
            pairs = make_pairs(domain.turns, protocol, domain.by_id)
            file = args.work / f"end.{name}.{protocol}.{args.name}.{args.sizes[0]}.jsonl"
            done, chooser = _rows(file), None
            wanted = sorted(set(pairs.turn.tolist()))
            random.Random(2).shuffle(wanted)
            wanted = wanted[: args.limit or None]
            for number in wanted:
                if str(number) in done:
                    continue
                chooser = chooser or Chooser(args)
                shown = [i for i in rankings[number] if i not in pairs.excluded[number]][: args.sizes[0]]
                scores = chooser.scores(domain.turns[number], [domain.by_id[i] for i in shown])
                with file.open("a") as out:
                    out.write(json.dumps({"id": str(number), "shown": shown, "scores": scores}) + "\n")
            rows = _rows(file)
            kept = [i for i, turn in enumerate(pairs.turn) if turn in set(wanted)]
            clusters = np.unique(pairs.dialogue[kept], return_inverse=True)[1]
            for weight in (None, 0.0, 0.25, 0.5, 1.0, 2.0):  # of the logarithm of the rank; None: first hit
                right = [float(_pick(rows[str(pairs.turn[i])], weight) == pairs.target[i]) for i in kept]
                what = "retriever's first hit" if weight is None else f"LLM_G, rank weight {weight}"
                label = f"{name} {protocol} {args.name} of {args.sizes[0]}, {what}"
                print(f"{label}: {_show(right, clusters)}", flush=True)


def _show(right: Sequence[float], clusters: np.ndarray) -> str:
    e = ClusterBootstrap(clusters, resamples=2000).estimate(np.asarray(right)[:, None])[0]
    return f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]  {int(sum(right))} of {len(right)}"


def _pick(row: dict[str, Any], weight: float | None) -> str:
    if weight is None:
        return str(row["shown"][0])
    values = [s[0] - weight * np.log(rank) for rank, s in enumerate(row["scores"], 1)]
    return str(row["shown"][int(np.argmax(values))])


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    steps = {"queries": write_queries, "retrieval": compare_retrieval, "selection": select,
             "end-to-end": end_to_end}  # fmt: skip
    parser.add_argument("step", choices=steps)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--work", type=Path, default=Path(__file__).parents[1] / "runs" / "dev")
    parser.add_argument("--domains", nargs="+", default=["inspired", "redial"])
    parser.add_argument("--adapter", type=Path, help="none: the untrained model")
    parser.add_argument("--name", default="qr", help="what to call the results")
    parser.add_argument("--decodings", nargs="+", default=["greedy"], choices=DECODINGS)
    parser.add_argument(
        "--system", default="qr-greedy + last 1", help="the retrieval that candidates are from"
    )
    parser.add_argument("--only", nargs="+", help="retrieval systems to compare; by default all there are")
    parser.add_argument("--sizes", nargs="+", type=int, default=[10])
    parser.add_argument("--history", type=int, default=384, help="tokens of the dialogue")
    parser.add_argument("--details", type=int, default=None, help="tokens of a candidate's details")
    parser.add_argument("--limit", type=int, default=0, help="most turns or pairs; 0 for all")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    steps[args.step](args)


if __name__ == "__main__":
    main()
