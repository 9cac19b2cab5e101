"""Printing: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reges_index.errors import ReGeSError

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

# Titles and queries are other people's text: an escape sequence in one must not reach the terminal.
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]+")


def shown(text: str) -> str:
    """Return text with control characters, except line breaks, as blanks."""
    return _CONTROL.sub(" ", text)


def say(text: str, style: str = "", *, to: Console = console) -> None:
    """Print text as it is: no markup, no line breaks put in."""
    to.print(Text(shown(text), style=style), soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a value as one JSON document, unwrapped and uncoloured."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def print_error(error: ReGeSError) -> None:
    """Print an error and its hint to standard error."""
    errors.print("error:", style="bold red", end=" ")
    say(str(error), to=errors)


def bar(share: float, width: int = 16) -> str:
    """Draw a share of 1 as a bar of block characters."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    full, part = divmod(eighths, 8)
    return "█" * full + ("" if part == 0 else "▏▎▍▌▋▊▉"[part - 1])


def candidate_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Make the table of candidates: rank, title, probability as a bar, retrieval score."""
    table = Table(box=None, pad_edge=False)
    table.add_column("#", justify="right", style="dim")
    table.add_column("item", no_wrap=True, max_width=40)
    table.add_column("probability", min_width=23)
    table.add_column("retrieval", justify="right", style="dim")
    for row in rows:
        share = row["probability"]
        score = row["retrieval_score"]
        table.add_row(
            str(row["rank"]),
            Text(shown(str(row["title"])).replace("\n", " ")),
            "" if share is None else f"{share:6.1%} {bar(share)}",
            "" if score is None else f"{score:.3f}",
        )
    return table
