"""Tokens per second of training: padded rows, and trees of shared prefixes, compiled or not.

    python benchmarks/training.py                     # the embedded base, the demo films' turns
    python benchmarks/training.py --turns ../shared/data/inspired/train.jsonl --examples 32 --repeats 3

All get the same examples, the same adapter at the start and the same number format. Trees have fewer tokens,
so what counts for them is examples per second. Runs take turns, so that a machine that is busy now and then
is unjust to all alike; the median is printed, with all values.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from reges_index.dialogue import Message, Turn, read_turns
from reges_index.models.local_lm import LocalLM
from reges_index.training.config import ExpertTraining
from reges_index.training.data import TrainingData
from reges_index.training.examples import Example, query_examples
from reges_index.training.experts import train_expert

WAYS = {
    "padded rows": {},
    "shared prefixes": {"share_prefixes": True},
    "shared prefixes, compiled": {"share_prefixes": True, "compile": True},
}


def made_up_turns(count: int) -> list[Turn]:
    """Make dialogues of two turns each, as long as those of INSPIRED are on average."""
    turns = []
    for number in range((count + 1) // 2):
        said = [
            Message(
                role=("user", "assistant")[i % 2],
                content=f"Sentence {i} of dialogue {number}, as people talk.",
            )
            for i in range(19)
        ]
        for part, length in enumerate((11, 19)):
            name = f"{number}-{part}"
            turns.append(Turn(id=name, dialog_id=str(number), messages=tuple(said[:length]), targets=("x",)))
    return turns[:count]


def run(examples: list[Example], lm: LocalLM, settings: ExpertTraining) -> tuple[float, float]:
    """Train once; return seconds in steps and the mean loss."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        result = train_expert(
            lambda _: examples,
            lm,
            settings,
            Path(folder) / "adapter",
            role="query-expert",
            about={"prompt_hash": "0", "prompt_template": "-"},
        )
        whole = time.perf_counter() - began
        manifest = json.loads((result.adapter_dir / "reges_adapter.json").read_text())
        seconds = manifest["training"]["seconds"] or whole
        return seconds, statistics.fmean(result.losses)


def main() -> None:
    """Read the command line and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--base", help="folder or hub name; by default the embedded one")
    parser.add_argument("--turns", type=Path, help="turns file; by default made-up dialogues")
    parser.add_argument("--examples", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--dtype", default="auto")
    args = parser.parse_args()

    turns = (read_turns(args.turns) if args.turns else made_up_turns(args.examples))[: args.examples]
    answer = "action thriller film about a group of soldiers fighting for their lives, like Braveheart"
    lm = LocalLM.from_pretrained(args.base, dtype=args.dtype)
    paper = ExpertTraining(
        batch_size=args.batch_size, max_history_tokens=384, num_threads=args.threads, save_every_minutes=60
    )
    data = TrainingData(turns, queries={turn.id: answer for turn in turns})
    examples, _ = query_examples([data], lm, paper)
    tokens = sum(example.length for example in examples)
    print(
        f"{lm.name}, {lm.model.dtype}, {args.threads or torch.get_num_threads()} threads, "
        f"{len(examples)} examples, {tokens} tokens"
    )
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    losses: dict[str, float] = {}
    for _ in range(args.repeats):
        for way, options in WAYS.items():
            settings = paper.model_copy(update=options)
            seconds, losses[way] = run(examples, lm, settings)
            times[way].append(seconds)
    print("| way | tokens/s (median; each run) | examples/s | mean loss |\n| --- | --- | --- | --- |")
    for way, seconds_of in times.items():
        middle = statistics.median(seconds_of)
        each = ", ".join(f"{tokens / seconds:.0f}" for seconds in seconds_of)
        print(
            f"| {way} | {tokens / middle:.0f} ({each}) | {len(examples) / middle:.2f} | {losses[way]:.3f} |"
        )


if __name__ == "__main__":
    main()
