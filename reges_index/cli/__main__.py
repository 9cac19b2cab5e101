"""`python -m reges_index.cli` is the `reges` command."""

from __future__ import annotations

from reges_index.cli import main

main()
