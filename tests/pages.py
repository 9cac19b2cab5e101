"""Runs the Python blocks of a page of the documentation, and compares what they print with what it shows."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import doctest
import inspect
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
# A block, and the output that may be shown right below it.
_BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n?```text\n(.*?)^```)?", re.MULTILINE | re.DOTALL)
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def run_page(
    page: str,
    names: dict[str, Any],
    instead: Mapping[str, str] | None = None,
    after: Callable[[], object] = lambda: None,
) -> list[str]:
    """Run the blocks of a page from top to bottom in one module; return what each printed.

    Parameters
    ----------
    page
        Its path below docs/.
    names
        What the blocks find, and what they leave.
    instead
        Texts of the blocks and what stands in their place, such as the address of a server.
    after
        Called after each block.

    Raises
    ------
    AssertionError
        If a block prints something else than the page shows; "..." stands for any text there.
    """
    text = (DOCS / page).read_text("utf-8")
    printed = []
    for number, (code, shown) in enumerate(_BLOCK.findall(text), 1):
        for found, other in (instead or {}).items():
            code = code.replace(found, other)
        compiled = compile(code, f"{page}, block {number}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            result = eval(compiled, names)
            if inspect.isawaitable(result):
                asyncio.run(_awaited(result))
        printed.append(out.getvalue())
        after()
        fits = not shown or doctest.OutputChecker().check_output(shown, printed[-1], _FLAGS)
        assert fits, f"{page}, block {number} prints\n{printed[-1]}and the page shows\n{shown}"
    return printed


async def _awaited(result: Any) -> None:
    await result
