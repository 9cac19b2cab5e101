from __future__ import annotations

import os
import resource
import subprocess
import sys
from importlib.metadata import version

import pytest

from reges_index.cli import app as cli
from reges_index.errors import CatalogError, InputError, ModelError, StorageError, TrainingError
from tests.cli.conftest import call, environment, reges

COMMANDS = ("index", "recommend", "chat", "predict", "evaluate", "finetune", "doctor", "data")


def test_version_and_help_are_quick_and_name_every_command():
    assert reges("--version").out.strip() == version("reges-index")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = reges("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert found.code == 0
    assert all(f" {command} " in found.out for command in COMMANDS)
    # Seconds of the processor, not of the clock: the machine may be busy with other things.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    found = call(command, "--help")
    assert found.code == 0
    assert "Usage:" in found.out


def modules_of(code):
    """Names of the modules that a fresh process has imported after running the code."""
    code += "\nimport sys; print(*sys.modules)"
    run = [sys.executable, "-c", code]
    return set(
        subprocess.run(run, env=environment(), capture_output=True, text=True, check=True).stdout.split()
    )


def test_the_command_line_starts_without_the_libraries_behind_it():
    heavy = {"torch", "transformers", "chromadb", "llama_index", "peft", "numpy", "pydantic"}
    assert not heavy & modules_of("import reges_index.cli.app")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("bad [/line] 3", hint="mend it"), 2),
        (CatalogError("no such store"), 3),
        (ModelError("no such model"), 4),
        (StorageError("the disk is full"), 5),
        (TrainingError("it stopped"), 6),
        (PermissionError(13, "Permission denied", "/some/store"), 5),
        (OSError(28, "No space left on device"), 5),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_error_is_one_message_and_an_exit_code(monkeypatch, error, code):
    def broken(*_args, **_kwargs):
        raise error

    monkeypatch.setattr("reges_index.cli.doctor._packages", broken)
    found = call("doctor")
    found.fails(code, *([] if isinstance(error, KeyboardInterrupt) else ["error:"]))
    if isinstance(error, InputError):
        assert found.err == "error: bad [/line] 3\n  hint: mend it\n"


def test_errors_that_are_no_matter_of_the_disk_stay_as_they_are(monkeypatch):
    assert cli._disk_error(ConnectionRefusedError(111, "refused")) is None
    assert cli._disk_error(OSError("a library's own")) is None
    assert cli._disk_error(BrokenPipeError(32, "Broken pipe")) is None


def test_a_mistyped_command_or_option_is_a_usage_error():
    call("recomend").fails(2, "recommend")
    call("predict", "--store", "x", "--out", "y").fails(2, "--conversations")
    call("recommend", "--store", "x", "--conversation", "y", "--mode", "guess").fails(2, "guess")


def test_a_reader_that_leaves_early_is_no_crash():
    pipe = f"{sys.executable} -m reges_index.cli --help | head -c 1"
    found = subprocess.run(
        ["bash", "-c", pipe], env=environment(), capture_output=True, text=True, check=False
    )
    assert len(found.stdout) == 1
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("command", ["recommend", "chat"])
def test_options_are_whole_on_a_narrow_terminal(command):
    run = [sys.executable, "-m", "reges_index.cli", command, "--help"]
    shown = subprocess.run(
        run, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"}, check=True
    )
    assert "…" not in shown.stdout
    for option in ("--exclude-mentioned / --allow-mentioned", "--similarity-top-k", "--write-query"):
        assert option in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80
