"""What an adapter says of itself, whether it belongs to a base, a role and a prompt, and its model card.

An adapter is a folder with PEFT's ``adapter_config.json`` and ``adapter_model.safetensors`` and, from this
package's training, ``reges_adapter.json``: the manifest. Nothing here runs the model.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open

from reges_index.errors import AdapterError, InputError
from reges_index.files import checked, read_json, write_text

if TYPE_CHECKING:
    from reges_index.models.local_lm import LocalLM

logger = logging.getLogger(__name__)

MANIFEST_FILE = "reges_adapter.json"
WEIGHTS_FILE = "adapter_model.safetensors"
FORMAT_VERSION = 1

_AGAIN = "copy or train the adapter again; training writes its files last"

AdapterRole: TypeAlias = Literal["query-expert", "item-expert", "item-expert-cot"]
ROLES: tuple[AdapterRole, ...] = ("query-expert", "item-expert", "item-expert-cot")


class DataFile(BaseModel):
    """A file that the adapter was trained on."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(description="its name, such as inspired/train.jsonl")
    sha256: str = Field(description="hash of its bytes")
    rows: int = Field(ge=0, description="how many of its rows were used")


class AdapterManifest(BaseModel):
    """Where an adapter comes from, saved as ``reges_adapter.json`` in its folder."""

    model_config = ConfigDict(extra="forbid")

    format_version: int = Field(default=FORMAT_VERSION, ge=1)
    name: str = Field(min_length=1)
    role: AdapterRole
    base_model: str = Field(min_length=1, description="hub name or path of the base (LocalLM.name)")
    base_revision: str | None = None
    base_fingerprint: str = Field(description="LocalLM.fingerprint of the base")
    prompt_hash: str = Field(description="hash of the prompt template that it was trained with")
    prompt_template: str = Field(description="that template")
    data: list[DataFile] = Field(default_factory=list)
    negatives: dict[str, Any] | None = Field(default=None, description="how negatives were chosen")
    training: dict[str, Any] = Field(default_factory=dict, description="hyper-parameters, steps, seed, loss")
    versions: dict[str, str] = Field(default_factory=dict, description="package -> version")
    dev_results: dict[str, Any] = Field(default_factory=dict)
    inference: dict[str, Any] = Field(
        default_factory=dict, description="budgets and decoding that did best on the development sets"
    )
    created: str = Field(default="", description="ISO 8601 date and time")

    def check_use(self, *, role: str | None, prompt_hash: str | None, called: str) -> None:
        """Raise `AdapterError` if the adapter was trained for another role or prompt than these."""
        if role is not None and self.role != role:
            raise AdapterError(
                f"{called} was trained as {self.role}, not as {role}",
                hint=f"use it where a {self.role} belongs, or name another adapter",
            )
        if prompt_hash is not None and self.prompt_hash != prompt_hash:
            raise AdapterError(
                f"{called} was trained with prompt {self.prompt_hash[:12]}, this one is {prompt_hash[:12]}",
                hint="use the prompt in its manifest, pass adapter=None, or train an adapter for your prompt",
            )


def save_manifest(manifest: AdapterManifest, path: str | Path) -> Path:
    """Write the manifest into the adapter's folder, whole or not at all; returns the file.

    Raises
    ------
    StorageError
        If the folder cannot be written.
    """
    return write_text(Path(path) / MANIFEST_FILE, manifest.model_dump_json(indent=2) + "\n")


def load_manifest(path: str | Path) -> AdapterManifest | None:
    """Read the manifest in an adapter's folder; None for a plain PEFT adapter without one.

    Raises
    ------
    AdapterError
        If the folder is missing, or the manifest is damaged or of a later format.
    """
    file = _folder(path) / MANIFEST_FILE
    if not file.is_file():
        return None
    fields = _read_json(file)
    version = fields.get("format_version", 0)
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise AdapterError(
            f"{file} has format {version}; this version of the package reads up to {FORMAT_VERSION}",
            hint="pip install --upgrade reges-index",
        )
    try:
        return checked(AdapterManifest, fields, where=f"{file} is not a valid manifest")
    except InputError as problem:
        raise AdapterError(problem.message, hint=_AGAIN) from problem


def needs_manifest(path: str | Path) -> AdapterManifest:
    """Read the manifest in an adapter's folder, which has to have one.

    Raises
    ------
    AdapterError
        As `load_manifest`; also if there is none.
    """
    manifest = load_manifest(path)
    if manifest is None:
        raise AdapterError(
            f"{path} holds no {MANIFEST_FILE}", hint="adapters trained with `reges finetune` have one"
        )
    return manifest


def check_adapter(
    path: str | Path, *, base: LocalLM, role: str | None = None, prompt_hash: str | None = None
) -> AdapterManifest | None:
    """Check that an adapter is whole and belongs here, before any of it is loaded.

    Parameters
    ----------
    path
        The adapter's folder.
    base
        The `LocalLM` it shall run on.
    role
        What it must have been trained for; None takes any.
    prompt_hash
        Hash of the prompt it will be used with; None takes any.

    Returns
    -------
    AdapterManifest or None
        None for a plain PEFT adapter: then only its tensors can be checked, on loading, and a warning is
        logged.

    Raises
    ------
    AdapterError
        Naming what is missing, damaged or different, and what to do.
    """
    folder = _folder(path)
    config = check_files(folder)
    manifest = load_manifest(folder)
    if manifest is None:
        logger.warning(
            "%s has no %s: whether it suits role and prompt cannot be checked, only that its tensors fit "
            "(it was trained on %s)",
            folder,
            MANIFEST_FILE,
            config.get("base_model_name_or_path") or "a base that it does not name",
        )
        return None
    called, here = f"adapter {manifest.name!r} in {folder}", base.fingerprint
    if manifest.base_fingerprint != here:
        raise AdapterError(
            f"{called} was trained on {manifest.base_model}, not on {base.name} "
            f"(fingerprint {manifest.base_fingerprint[:12]}, here {here[:12]})",
            hint=f"load the base {manifest.base_model}, or train the adapter on {base.name}",
        )
    if manifest.base_model.rstrip("/").lower() != base.name.rstrip("/").lower():
        # A mirror or a folder of the same weights has another name, so names decide nothing.
        logger.warning(
            "adapter %s was trained on %s; %s has its shape and vocabulary, but perhaps other weights",
            manifest.name,
            manifest.base_model,
            base.name,
        )
    manifest.check_use(role=role, prompt_hash=prompt_hash, called=called)
    return manifest


def _folder(path: str | Path) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise AdapterError(
            f"there is no adapter folder {folder}", hint="check the path, or train the adapter first"
        )
    return folder


def check_files(path: str | Path) -> dict[str, Any]:
    """Return the content of ``adapter_config.json`` of a folder that is whole; nothing is loaded.

    Raises
    ------
    AdapterError
        If the folder, its configuration or its weights are missing, damaged or half-written.
    """
    folder = _folder(path)
    file = folder / "adapter_config.json"
    if not file.is_file():
        raise AdapterError(f"{folder} holds no adapter_config.json, so it is no adapter", hint=_AGAIN)
    config = _read_json(file)
    if config.get("peft_type") != "LORA":
        raise AdapterError(
            f"{file} is of type {config.get('peft_type')!r}", hint="only LoRA adapters are used here"
        )
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        other = next((found.name for found in folder.glob("adapter_model.*")), None)
        hint = f"convert {other} to safetensors; pickled weights are never read" if other else _AGAIN
        raise AdapterError(f"{folder} holds no {WEIGHTS_FILE}", hint=hint)
    try:
        with safe_open(weights, framework="pt") as tensors:
            empty = not list(tensors.keys())
    except (SafetensorError, OSError) as problem:
        raise AdapterError(f"{weights} is damaged or half-written: {problem}", hint=_AGAIN) from problem
    if empty:
        raise AdapterError(f"{weights} holds no tensors", hint=_AGAIN)
    return config


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return read_json(file)
    except InputError as problem:
        raise AdapterError(f"{problem.message}: damaged or half-written", hint=_AGAIN) from problem


# -- the model card ------------------------------------------------------------------------------------------

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
    recorded = {
        "Training data": [file.model_dump() for file in manifest.data],
        "Negatives": manifest.negatives,
        "Training": manifest.training,
        "Recommended settings": manifest.inference,
        "Results on the development sets": manifest.dev_results,
        "Versions": manifest.versions,
    }
    parts = [
        "\n".join(header),
        f"# {manifest.name}",
        f"A LoRA adapter that {_WHAT[manifest.role]}, after ReGeS (Yang and Fang 2025).",
        f"Base: `{manifest.base_model}`{revision}, fingerprint `{manifest.base_fingerprint[:16]}`. "
        f"Made {manifest.created or 'at an unknown time'}.",
        "## Prompt",
        f"Hash `{manifest.prompt_hash}`. The adapter is of use with this prompt only:",
        _fenced(manifest.prompt_template, "text"),
    ]
    for title, values in recorded.items():
        if values:
            text = yaml.safe_dump(_short(values), sort_keys=False, width=1000)
            parts += [f"## {title}", _fenced(text.rstrip(), "yaml")]
    return "\n\n".join(parts) + "\n"


def _short(value: Any) -> Any:
    """Write floats with four digits, and a figure of the results (value, interval, count) as one text."""
    if isinstance(value, Mapping):
        short = {name: _short(its) for name, its in value.items()}
        return ", ".join(f"{name}: {its}" for name, its in short.items()) if "n" in value else short
    if isinstance(value, list):
        return [_short(its) for its in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _fenced(text: str, kind: str) -> str:
    """Put text into a fence longer than any in it."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{kind}\n{text}\n{fence}"
