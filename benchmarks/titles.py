"""How well named items are found: precision and recall against the ``mentioned`` labels of turns.

    python benchmarks/titles.py CATALOG.jsonl TURNS.jsonl [CATALOG.jsonl TURNS.jsonl ...]
    python benchmarks/titles.py FOLDER     # each folder in it holds catalog.jsonl and turns.jsonl; summed

Counted over the last turn of each dialogue, item by item.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

from reges_index.catalog import read_items
from reges_index.dialogue import TitleIndex, Turn, read_turns


def last_turns(turns: list[Turn]) -> list[Turn]:
    """Return the turn with the most messages of each dialogue that is labelled."""
    labelled = sorted((t for t in turns if t.mentioned is not None), key=lambda turn: len(turn.messages))
    return list({turn.dialog_id or turn.id: turn for turn in labelled}.values())


def count(catalog: Path, turns: Path) -> Counter[str]:
    """Count the items that were found, wanted, and both, and take the times."""
    items = read_items(catalog)
    start = time.perf_counter()
    index = TitleIndex.of(items)
    counts = Counter(build_ms=round(1000 * (time.perf_counter() - start)))
    start = time.perf_counter()
    for turn in last_turns(read_turns(turns)):
        found, wanted = index.named_ids(turn.chat), set(turn.mentioned or ())
        counts.update(found=len(found), wanted=len(wanted), both=len(found & wanted))
        counts["messages"] += len(turn.messages)
    counts["microseconds"] = round(1e6 * (time.perf_counter() - start))
    return counts


def main(paths: list[Path]) -> None:
    """Print a line for each pair of files, or for a folder of them."""
    if len(paths) == 1:
        folders = sorted(path for path in paths[0].iterdir() if (path / "turns.jsonl").is_file())
        parts = [count(folder / "catalog.jsonl", folder / "turns.jsonl") for folder in folders]
        rows = [(str(paths[0]), sum(parts, Counter()))]
    else:
        rows = [
            (str(turns), count(items, turns)) for items, turns in zip(paths[::2], paths[1::2], strict=True)
        ]
    print("| turns | precision | recall | found | labelled | ms a message | index, ms |")
    print("|---|---|---|---|---|---|---|")
    for name, c in rows:
        precision, recall = c["both"] / max(1, c["found"]), c["both"] / max(1, c["wanted"])
        took = c["microseconds"] / 1000 / max(1, c["messages"])
        sizes = f"{c['found']} | {c['wanted']} | {took:.2f} | {c['build_ms']}"
        print(f"| {name} | {precision:.3f} | {recall:.3f} | {sizes} |")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
