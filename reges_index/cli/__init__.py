"""The `reges` command."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line; installed as ``reges``."""
    from reges_index.cli.app import run

    run()
