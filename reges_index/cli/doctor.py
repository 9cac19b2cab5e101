"""`reges doctor`: what is installed, what is found, what is wrong."""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Literal

import typer

from reges_index.cli.output import console, print_json
from reges_index.cli.parts import AsJson, store_place
from reges_index.errors import ReGeSError

__all__ = ["doctor"]

NEEDED = ("torch", "transformers", "peft", "llama-index-core", "chromadb", "sentence-transformers")
OPTIONAL = {
    "train": ("trl", "accelerate", "datasets"),
    "evaluate": ("ranx", "matplotlib", "sacrebleu", "rouge-score", "bm25s"),
    "llms": ("llama-index-llms-openai", "llama-index-llms-openai-like", "llama-index-llms-huggingface"),
}


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    subject: str
    status: Literal["ok", "missing", "problem"]
    detail: str


def doctor(
    store: Annotated[str | None, typer.Option("--store", help="Also look at this catalog store.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is installed, which models, adapters and stores are found, and what is wrong.

    Ends with 1 when something is wrong that the embedded default or the store needs.
    """
    findings = [*_packages(), *_models(), *(_store(store) if store else ())]
    if as_json:
        print_json({"python": sys.version.split()[0], "findings": [asdict(f) for f in findings]})
    else:
        marks = {
            "ok": "[green]ok[/green]     ",
            "missing": "[yellow]missing[/yellow]",
            "problem": "[red]problem[/red]",
        }
        console.print(f"python {sys.version.split()[0]} on {platform.platform()}")
        for finding in findings:
            console.print(f"{marks[finding.status]} {finding.subject}: ", end="")
            console.print(finding.detail, markup=False)
    if any(finding.status == "problem" for finding in findings):
        raise typer.Exit(1)


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _packages() -> list[Finding]:
    found = []
    for package in NEEDED:
        number = _installed(package)
        found.append(Finding(package, "ok" if number else "problem", number or f"pip install {package}"))
    for extra, packages in OPTIONAL.items():
        absent = [package for package in packages if _installed(package) is None]
        detail = f"pip install 'reges-index[{extra}]' (lacks {', '.join(absent)})" if absent else "installed"
        found.append(Finding(f"extra {extra}", "missing" if absent else "ok", detail))
    return found


def _models() -> list[Finding]:
    found = []
    try:
        from reges_index.models.embedded import resolve_base

        base = resolve_base(None)
        found.append(Finding("embedded LLM", "ok", f"{base.name} from {base.source}, {base.path}"))
    except (ReGeSError, ImportError) as error:
        found.append(Finding("embedded LLM", "problem", str(error)))
    try:
        from reges_index.catalog import find_default_encoder

        found.append(Finding("embedded encoder", "ok", str(find_default_encoder())))
    except (ReGeSError, ImportError) as error:
        found.append(Finding("embedded encoder", "problem", str(error)))
    try:
        from reges_index.models import LocalLM, load_manifest

        for name, folder in LocalLM.shipped_adapters().items():
            manifest = load_manifest(folder)
            made = f"for {manifest.base_model}, made {manifest.created}" if manifest else "no manifest"
            found.append(Finding(f"adapter {name}", "ok", made))
        if not LocalLM.shipped_adapters():
            found.append(Finding("adapters", "missing", "none ship with this version; models run untrained"))
    except (ReGeSError, ImportError) as error:
        found.append(Finding("adapters", "problem", str(error)))
    return found


def _store(store: str) -> list[Finding]:
    from reges_index.catalog import ItemCatalog

    try:
        names = ItemCatalog.names(**store_place(store))
    except ReGeSError as error:
        return [Finding(f"store {store}", "problem", str(error))]
    found = []
    for name in names:
        try:
            catalog = ItemCatalog.open(**store_place(store), name=name)
            found.append(Finding(f"catalog {name}", "ok", f"{len(catalog):,} items, {catalog.encoder.name}"))
        except ReGeSError as error:
            found.append(Finding(f"catalog {name}", "problem", str(error)))
    return found or [Finding(f"store {store}", "problem", "it holds no catalog; make one with `reges index`")]
