"""Printing: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["bar", "candidate_table", "console", "errors", "print_json"]

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Print a value as one JSON document, unwrapped and uncoloured."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def bar(share: float, width: int = 24) -> str:
    """Draw a share of 1 as a bar of block characters."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    full, part = divmod(eighths, 8)
    return "█" * full + ("" if part == 0 else "▏▎▍▌▋▊▉"[part - 1])


def candidate_table(rows: list[dict[str, Any]]) -> Table:
    """Make the table of candidates: rank, title, probability as a bar, retrieval score."""
    table = Table(box=None, pad_edge=False)
    table.add_column("#", justify="right", style="dim")
    table.add_column("item", no_wrap=True, max_width=48)
    table.add_column("probability", min_width=31)
    table.add_column("cosine", justify="right", style="dim")
    for row in rows:
        share = row["probability"]
        score = row["retrieval_score"]
        table.add_row(
            str(row["rank"]),
            str(row["title"]),
            "" if share is None else f"{share:6.1%} {bar(share)}",
            "" if score is None else f"{score:.3f}",
        )
    return table
