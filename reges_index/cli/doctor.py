"""`reges doctor`: what is installed, what is found, what is wrong."""

from __future__ import annotations

import platform
import re
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

import typer

from reges_index.catalog.live_state import live_in
from reges_index.cli.engine_options import EngineOptions, with_engine_options
from reges_index.cli.output import console, print_json, say
from reges_index.cli.parts import AsJson, open_catalog, store_place
from reges_index.errors import EncoderMismatchError, ReGeSError

# Of an engineer, or looked for by itself.
_OTHER_EXTRAS = ("dev", "docs", "test", "embedded")


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    subject: str
    status: Literal["ok", "missing", "problem"]
    detail: str


@with_engine_options
def doctor(options: EngineOptions, as_json: AsJson = False) -> None:
    """Say what is installed, found and wrong. With options also who does what, and why.

    Ends with 1 when something is wrong that the embedded default or the store needs.
    """
    store = options.store
    findings = [*_packages(), *_models(), *(_store(store) if store else ()), *_plan(options)]
    if as_json:
        print_json({"python": sys.version.split()[0], "findings": [asdict(f) for f in findings]})
    else:
        marks = {
            "ok": "[green]ok[/green]     ",
            "missing": "[yellow]missing[/yellow]",
            "problem": "[red]problem[/red]",
        }
        say(f"python {sys.version.split()[0]} on {platform.platform()}")
        for finding in findings:
            console.print(marks[finding.status], end=" ")
            say(f"{finding.subject}: {finding.detail}")
    if any(finding.status == "problem" for finding in findings):
        raise typer.Exit(1)


def _plan(options: EngineOptions) -> list[Finding]:
    """Say who writes the query, retrieves, ranks and words the answer with these options."""
    settings = options.settings()
    try:
        from reges_index.catalog.encoder import identity_name
        from reges_index.engines.plan import what_runs
        from reges_index.fusion.model import FusionModel

        trained = FusionModel.default().manifest["encoder"]["name"]
        plan = what_runs(settings, fits=identity_name(settings.encoder) == trained)
    except (ImportError, ReGeSError) as error:
        return [Finding("what runs", "problem", str(error))]
    lines = (line.partition(": ") for line in str(plan).splitlines())
    return [Finding(what, "ok", said) for what, _, said in lines]


def _packages() -> list[Finding]:
    """Look for what the package says that it needs."""
    found: list[Finding] = []
    extras: dict[str, list[str]] = {}
    for line in requires("reges-index") or ():
        package = re.split(r"[^\w.-]", line, maxsplit=1)[0]
        extra = re.search(r"extra == ['\"](\w+)", line)
        try:
            number = version(package)
        except PackageNotFoundError:
            number = ""
        if extra is None:
            found.append(Finding(package, "ok" if number else "problem", number or f"pip install {package}"))
        elif extra[1] not in _OTHER_EXTRAS:
            extras.setdefault(extra[1], []).extend([] if number else [package])
    for name, absent in extras.items():
        detail = f"pip install 'reges-index[{name}]' (lacks {', '.join(absent)})" if absent else "installed"
        found.append(Finding(f"extra {name}", "missing" if absent else "ok", detail))
    return found


def _models() -> list[Finding]:
    """Look without loading, converting or downloading anything."""
    try:
        return [_language_model(), _encoder(), *_adapters()]
    except ImportError as error:
        return [Finding("models", "problem", f"cannot be looked for: {error}")]


def _language_model() -> Finding:
    from huggingface_hub import try_to_load_from_cache

    from reges_index.models.embedded import EMBEDDED_BASE, INSTALL_HINT, find_embedded_gguf
    from reges_index.models.loading import cache_folder

    if (gguf := find_embedded_gguf()) is not None:
        folder = cache_folder()
        made = next(folder.glob(f"{gguf.stem}-*"), None)
        state = f"converted in {made}" if made else f"converted at first use into {folder}"
        return Finding("embedded LLM", "ok", f"{EMBEDDED_BASE} in {gguf.parent}, {state}")
    cached = try_to_load_from_cache(EMBEDDED_BASE, "model.safetensors")
    if isinstance(cached, str):
        return Finding("embedded LLM", "ok", f"{EMBEDDED_BASE} in the hub's cache, {Path(cached).parent}")
    return Finding("embedded LLM", "problem", f"{EMBEDDED_BASE} is not on this machine; {INSTALL_HINT}")


def _encoder() -> Finding:
    from reges_index.catalog.encoder_names import DEFAULT_ENCODER, find_default_encoder

    if (folder := find_default_encoder()) is not None:
        return Finding("embedded encoder", "ok", f"{DEFAULT_ENCODER} in {folder}")
    hint = "pip install 'reges-index[embedded]'"
    return Finding("embedded encoder", "problem", f"{DEFAULT_ENCODER} is not on this machine; {hint}")


def _adapters() -> list[Finding]:
    from reges_index.models import LocalLM, load_manifest
    from reges_index.models.adapters import check_files

    found = []
    for name, folder in LocalLM.shipped_adapters().items():
        try:
            check_files(folder)
            manifest = load_manifest(folder)
        except ReGeSError as error:
            found.append(Finding(f"adapter {name}", "problem", str(error)))
            continue
        made = f"for {manifest.base_model}, made {manifest.created}" if manifest else "no manifest"
        found.append(Finding(f"adapter {name}", "ok", made))
    return found or [Finding("adapters", "missing", "none ship with this version; models run untrained")]


def _store(store: str) -> list[Finding]:
    place = store_place(store)

    from reges_index.catalog import ItemCatalog

    try:
        names, live = ItemCatalog.names(**place), live_in(store)
    except ReGeSError as error:
        return [Finding(f"store {store}", "problem", str(error))]
    found = []
    for name in names:
        state = live.get(name)
        at = "" if state is None else f", live at version {state.live} ({len(state.names)} kept)"
        try:
            catalog = open_catalog(store, name, None)
            detail = f"{len(catalog):,} items, {catalog.encoder.name}{at}"
            found.append(Finding(f"catalog {name}", "ok", detail))
        except EncoderMismatchError as error:
            detail = f"needs its own --encoder: {error.message}{at}"
            found.append(Finding(f"catalog {name}", "ok", detail))
        except ReGeSError as error:
            found.append(Finding(f"catalog {name}", "problem", str(error)))
    return found or [Finding(f"store {store}", "problem", "it holds no catalog; make one with `reges index`")]
