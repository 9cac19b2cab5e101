"""A report as one HTML file: tables, pictures and a table of turns to click through; no network."""

from __future__ import annotations

import base64
import html
import json
from importlib import resources
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

__all__ = ["html_report", "script_json"]


def script_json(value: Any) -> str:
    """Return JSON that may stand inside a ``<script>`` element whatever texts it holds."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def html_report(
    markdown: str, pictures: dict[str, Path], turns: dict[str, list[dict[str, Any]]], *, total_turns: int
) -> str:
    """Write a report.

    Parameters
    ----------
    markdown
        The report's text; HTML in it is shown, not obeyed, as system names and paths come from outside.
    pictures
        Title to PNG; they are embedded.
    turns
        For each protocol the rows of `turn_table.turn_rows`.
    total_turns
        Turns in the data, so that the page can say when it does not show all.
    """
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    figures = "".join(
        f'<figure><figcaption>{html.escape(title)}</figcaption><img alt="{html.escape(title)}" '
        f'src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"></figure>'
        for title, path in pictures.items()
    )
    template = resources.files(__package__).joinpath("report_template.html").read_text(encoding="utf-8")
    filled = {
        "@@BODY@@": body,
        "@@FIGURES@@": figures,
        "@@TURNS@@": script_json({"total": total_turns, "protocols": turns}),
    }
    # One pass, so that a text which imitates a slot is not filled in turn.
    parts = template
    pieces: list[str] = []
    for slot, text in filled.items():
        before, _, parts = parts.partition(slot)
        pieces += [before, text]
    return "".join([*pieces, parts])
