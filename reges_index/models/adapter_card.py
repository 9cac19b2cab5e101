"""A model card made from an adapter's manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reges_index.models.adapters import AdapterManifest

__all__ = ["model_card"]

_WHAT = {
    "query-expert": "writes the search query for a dialogue (LLM_QR, generation-augmented retrieval)",
    "item-expert": "picks the item to recommend among retrieved ones (LLM_G, retrieval-augmented generation)",
    "item-expert-cot": "writes down the user's preferences and then picks the item (LLM_G, chain of thought)",
}


def model_card(manifest: AdapterManifest) -> str:
    """Write a model card in Markdown, with the header that the Hugging Face hub reads.

    Parameters
    ----------
    manifest
        The adapter's manifest; everything in the card comes from it.
    """
    header = [
        "---",
        f"base_model: {manifest.base_model}",
        "library_name: peft",
        "tags: [lora, conversational-recommendation, reges]",
        "---",
    ]
    revision = f" at revision {manifest.base_revision}" if manifest.base_revision else ""
    parts = [
        "\n".join(header),
        f"# {manifest.name}",
        f"A LoRA adapter that {_WHAT[manifest.role]}, after ReGeS (Yang and Fang 2025).",
        f"Base: `{manifest.base_model}`{revision}, fingerprint `{manifest.base_fingerprint[:16]}`. "
        f"Made {manifest.created or 'at an unknown time'}.",
        "## Prompt",
        f"Hash `{manifest.prompt_hash}`. The adapter is of use with this prompt only:",
        _fenced(manifest.prompt_template),
        "## Training data",
        _table(("file", "rows", "SHA-256"), [(d.path, d.rows, f"`{d.sha256[:16]}`") for d in manifest.data]),
    ]
    if manifest.negatives:
        parts += ["## Negatives", _fields(manifest.negatives)]
    parts += [
        "## Training",
        _fields(manifest.training),
        "## Recommended settings",
        _fields(manifest.inference),
        "## Results on the development sets",
        _fields(manifest.dev_results),
        "## Versions",
        _fields(manifest.versions),
    ]
    return "\n\n".join(parts) + "\n"


def _fields(values: Mapping[str, Any]) -> str:
    return _table(("field", "value"), list(_flatten(values).items()))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if (figure := _figure(value)) is not None:
            flat[f"{prefix}{key}"] = figure
        elif isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key} / "))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _figure(value: Any) -> str | None:
    """Put a figure of the dev results, its interval and its count into one cell; None if it is none.

    In three rows each a card would be unreadable.
    """
    if not isinstance(value, Mapping) or not {"value", "n"} <= set(value):
        return None
    known = f"{_cell(value['value'])} (n = {value['n']})"
    rest = {name: its for name, its in value.items() if name not in ("value", "n") and its != [None, None]}
    for name, its in rest.items():
        if not (name.endswith(" %") and isinstance(its, list) and len(its) == 2):
            return None
        known += f", {name} [{_cell(its[0])}, {_cell(its[1])}]"
    return known


def _table(names: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    if not rows:
        return "Not recorded."
    lines = [names, tuple("---" for _ in names), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())


def _fenced(text: str) -> str:
    """Put text into a fence longer than any in it."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"
