"""The page of the command line, from the commands themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer

from reges_index.cli.app import app

__all__ = ["command_line_page"]

INTRODUCTION = """\
# Command line

`reges` is installed with the package. Every command that prints results has `--json`, which prints one JSON
document and nothing else to standard output; messages and progress go to standard error.
"""


def command_line_page() -> str:
    """Return Markdown with a section for each command."""
    root = typer.main.get_command(app)
    epilog = f"{root.epilog}\n" if root.epilog else ""
    return "\n".join([INTRODUCTION, epilog, *_sections(root, "reges", 2)])


def _sections(group: Any, path: str, level: int) -> Iterator[str]:
    for name, command in group.commands.items():
        full = f"{path} {name}"
        yield f"{'#' * level} `{full}`\n"
        yield inspect.cleandoc(command.help or "") + "\n"
        if hasattr(command, "commands"):
            yield from _sections(command, full, level + 1)
            continue
        # Typer has its own copy of click in some versions: only what both have is used here.
        context = command.make_context(full, [], resilient_parsing=True)
        yield f"```text\n{full} {' '.join(command.collect_usage_pieces(context))}\n```\n"
        yield from _table([param.get_help_record(context) for param in command.params])


def _table(records: list[tuple[str, str] | None]) -> Iterator[str]:
    shown = [record for record in records if record is not None]  # None: hidden
    if shown:
        yield "| option | |\n|---|---|"
        yield from (f"| <code>{_cell(names)}</code> | {_cell(text)} |" for names, text in shown)
        yield ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
