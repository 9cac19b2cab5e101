"""The commands under one name, and what they end with."""

from __future__ import annotations

import logging
import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from reges_index.cli.chat import chat
from reges_index.cli.doctor import doctor
from reges_index.cli.index import index
from reges_index.cli.output import errors
from reges_index.cli.predict import predict
from reges_index.cli.recommend import recommend
from reges_index.errors import ReGeSError

__all__ = ["app", "run"]

app = typer.Typer(
    name="reges",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Conversational recommendation with ReGeS: a dialogue in, one catalog item out.",
    epilog="Exit codes: 0 done, 1 other error, 2 bad input, 3 catalog or store, 4 model or adapter, "
    "5 disk, 6 training, 130 interrupted.",
)
app.command()(index)
app.command()(recommend)
app.command()(chat)
app.command()(predict)
app.command()(doctor)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(version("reges-index"))
        raise typer.Exit


@app.callback()
def _main(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    if not verbose:
        for noisy in ("httpx", "sentence_transformers", "chromadb"):
            logging.getLogger(noisy).setLevel(logging.WARNING)


def run() -> None:
    """Run the app and turn errors of ours into a message and an exit code."""
    try:
        app()
    except ReGeSError as error:
        errors.print("error:", style="bold red", end=" ")
        errors.print(str(error), markup=False, highlight=False)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `reges ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("interrupted; what was finished is kept", style="yellow")
        sys.exit(130)
