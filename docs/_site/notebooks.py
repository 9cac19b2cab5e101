"""Pages of the site from the notebooks in examples/, with the outputs that are kept in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["notebook_page"]


def notebook_page(path: Path) -> str:
    """Return a notebook as Markdown: text, code, and what the code printed."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join(block for cell in cells for block in _blocks(cell)) + "\n"


def _blocks(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", source)
    elif cell["cell_type"] == "code" and source.strip():
        yield _fence(source, "python")
        for output in cell["outputs"]:
            yield from _shown(output)


def _shown(output: dict[str, Any]) -> Iterator[str]:
    if output["output_type"] == "stream":
        yield _fence("".join(output["text"]), "text")
        return
    data = output.get("data", {})
    if "image/png" in data:
        png = "".join("".join(data["image/png"]).split())
        yield f"![picture](data:image/png;base64,{png})"
    elif "text/markdown" in data:
        yield "".join(data["text/markdown"])
    elif "text/plain" in data:
        yield _fence("".join(data["text/plain"]), "text")


def _fence(text: str, language: str) -> str:
    # Longer than any run of backticks in the text, so that printed Markdown cannot end the block.
    ticks = "```"
    while ticks in text:
        ticks += "`"
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}"
