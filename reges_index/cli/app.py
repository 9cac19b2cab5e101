"""The commands under one name, and what they end with."""

from __future__ import annotations

import errno
import io
import logging
import shutil
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from reges_index.cli.output import errors, print_error
from reges_index.errors import ReGeSError, StorageError

INTERRUPTED = 130
# Libraries that log at INFO what only matters with --verbose, or warn of what this package handles.
_NOISY = ("httpx", "sentence_transformers", "chromadb")
_ROOMY = 120
_LOOKS: dict[str, Any] = {
    "add_completion": False,
    # In the boxes of rich there is no room for whole options on a terminal of 80 columns.
    "rich_markup_mode": "rich" if shutil.get_terminal_size().columns >= _ROOMY else None,
    "pretty_exceptions_enable": False,
}
# Where each command is; it is imported when it is asked for, with the libraries that it needs.
_PLACES = {
    "index": "catalog:index",
    "catalog": "catalog:catalog_app",
    "recommend": "recommend:recommend",
    "chat": "chat:chat",
    "ui": "ui:ui",
    "predict": "predict:predict",
    "presets": "presets:presets",
    "evaluate": "evaluate:evaluate",
    "doctor": "doctor:doctor",
    "finetune": "finetune:finetune_app",
    "data": "data:data_app",
}


class _Places(Mapping[str, Any]):
    """The commands by name."""

    def __getitem__(self, name: str) -> Any:
        module, attribute = _PLACES[name].split(":")
        found = getattr(import_module(f"reges_index.cli.{module}"), attribute)
        alone = typer.Typer(**_LOOKS)
        if isinstance(found, typer.Typer):
            alone.add_typer(found, name=name)
        else:
            alone.command(name)(found)
        return typer.main.get_group(alone).commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_PLACES)

    def __len__(self) -> int:
        return len(_PLACES)


class _Commands(TyperGroup):
    """All commands; an error of ours becomes one message on stderr and the error's exit code."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = _Places()  # type: ignore[assignment]

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ReGeSError as error:
            print_error(error)
            raise typer.Exit(error.exit_code) from error
        except OSError as error:
            found = _disk_error(error)
            if found is None:
                raise
            print_error(found)
            raise typer.Exit(found.exit_code) from error
        except KeyboardInterrupt as error:
            errors.print("interrupted; what was finished is kept", style="yellow")
            raise typer.Exit(INTERRUPTED) from error


def _disk_error(error: OSError) -> StorageError | None:
    """Name what the file system said; None for errors of the network, of pipes, and of libraries."""
    if error.errno in (None, errno.EPIPE) or isinstance(error, (ConnectionError, TimeoutError)):
        return None
    where = f"{error.filename}: " if error.filename else ""
    return StorageError(
        f"{where}{error.strerror or error}",
        hint="check the path, its rights, and that the disk is not full; what was finished is kept",
    )


app = typer.Typer(
    name="reges",
    cls=_Commands,
    no_args_is_help=True,
    **_LOOKS,
    help="Conversational recommendation with ReGeS: a dialogue in, one catalog item out.",
    epilog="Exit codes: 0 done, 1 other error, 2 bad input, 3 catalog or store, 4 model or adapter, "
    "5 disk, 6 training, 130 interrupted.",
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(version("reges-index"))
        raise typer.Exit


@app.callback()
def _main(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens, to stderr.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    if not verbose:
        for noisy in _NOISY:
            logging.getLogger(noisy).setLevel(logging.WARNING)


def run() -> None:
    """Run the app; installed as ``reges``."""
    # What a terminal or a pipe cannot show must not end a command after minutes of work.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app()
