"""What an adapter says of itself, and whether it belongs to a base, a role and a prompt.

An adapter is a folder with PEFT's ``adapter_config.json`` and ``adapter_model.safetensors`` and, from this
package's training, ``reges_adapter.json``: the manifest. Nothing here runs the model.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from reges_index.errors import AdapterError, StorageError

if TYPE_CHECKING:
    from reges_index.models.tokenized_model import TokenizedModel

__all__ = [
    "MANIFEST_FILE",
    "ROLES",
    "WEIGHTS_FILE",
    "AdapterManifest",
    "AdapterRole",
    "DataFile",
    "check_adapter",
    "check_files",
    "load_manifest",
    "needs_manifest",
    "save_manifest",
]

logger = logging.getLogger(__name__)

MANIFEST_FILE = "reges_adapter.json"
WEIGHTS_FILE = "adapter_model.safetensors"
FORMAT_VERSION = 1

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


def save_manifest(manifest: AdapterManifest, path: str | Path) -> Path:
    """Write the manifest into the adapter's folder, whole or not at all; returns the file.

    Raises
    ------
    StorageError
        If the folder cannot be written.
    """
    target = Path(path) / MANIFEST_FILE
    temporary = ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=target.parent, suffix=".json", delete=False
        ) as file:
            temporary = file.name
            file.write(manifest.model_dump_json(indent=2) + "\n")
        Path(temporary).chmod(0o644)
        os.replace(temporary, target)  # noqa: PTH105 (the one call that is atomic everywhere)
    except OSError as problem:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise StorageError(
            f"the adapter's manifest cannot be written to {target}: {problem.strerror or problem}",
            hint="free some space, or choose a folder that can be written",
        ) from problem
    return target


def load_manifest(path: str | Path) -> AdapterManifest | None:
    """Read the manifest in an adapter's folder; None for a plain PEFT adapter without one.

    Raises
    ------
    AdapterError
        If the folder is missing, or the manifest is damaged or of a later format.
    """
    folder = _folder(path)
    file = folder / MANIFEST_FILE
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
        return AdapterManifest.model_validate(fields)
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise AdapterError(
            f"{file} is not a valid manifest: {where}: {first['msg']}", hint="train or copy the adapter again"
        ) from problem


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
    path: str | Path,
    *,
    base: TokenizedModel | str | None,
    role: str | None = None,
    prompt_hash: str | None = None,
) -> AdapterManifest | None:
    """Check that an adapter is whole and belongs here, before any of it is loaded.

    Parameters
    ----------
    path
        The adapter's folder.
    base
        The base it shall run on, or only its fingerprint; None takes any.
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
    fingerprint = base if isinstance(base, str) or base is None else base.fingerprint
    base_name = "the given base" if isinstance(base, str) or base is None else base.name
    if fingerprint is not None and manifest.base_fingerprint != fingerprint:
        raise AdapterError(
            f"adapter {manifest.name!r} in {folder} was trained on {manifest.base_model}, not on {base_name} "
            f"(fingerprint {manifest.base_fingerprint[:12]}, here {fingerprint[:12]})",
            hint=f"load the base {manifest.base_model}, train the adapter on {base_name}, or where only "
            "tokens were added, load_adapter(..., any_base=True)",
        )
    if base_name != "the given base" and not _same_name(manifest.base_model, base_name):
        # A mirror or a folder of the same weights has another name, so names decide nothing.
        logger.warning(
            "adapter %s was trained on %s; %s has its shape and vocabulary, but perhaps other weights",
            manifest.name,
            manifest.base_model,
            base_name,
        )
    if role is not None and manifest.role != role:
        raise AdapterError(
            f"adapter {manifest.name!r} in {folder} was trained as {manifest.role}, not as {role}",
            hint=f"use it where a {manifest.role} belongs, or name another folder",
        )
    if prompt_hash is not None and manifest.prompt_hash != prompt_hash:
        raise AdapterError(
            f"adapter {manifest.name!r} in {folder} was trained with another prompt "
            f"(hash {manifest.prompt_hash[:12]}, here {prompt_hash[:12]})",
            hint="use the prompt in its manifest (prompt_template), or train it again with the present one",
        )
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
    again = "copy or train the adapter again; training writes these files last"
    file = folder / "adapter_config.json"
    if not file.is_file():
        raise AdapterError(f"{folder} holds no adapter_config.json, so it is no adapter", hint=again)
    config = _read_json(file)
    if config.get("peft_type") != "LORA":
        raise AdapterError(
            f"{file} is of type {config.get('peft_type')!r}", hint="only LoRA adapters are used here"
        )
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        other = next((found.name for found in folder.glob("adapter_model.*")), None)
        hint = f"convert {other} to safetensors; pickled weights are never read" if other else again
        raise AdapterError(f"{folder} holds no {WEIGHTS_FILE}", hint=hint)
    try:
        with safe_open(weights, framework="pt") as tensors:
            empty = not list(tensors.keys())
    except (SafetensorError, OSError) as problem:
        raise AdapterError(f"{weights} is damaged or half-written: {problem}", hint=again) from problem
    if empty:
        raise AdapterError(f"{weights} holds no tensors", hint=again)
    return config


def _same_name(one: str, other: str) -> bool:
    return one.rstrip("/").lower() == other.rstrip("/").lower()


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as problem:
        raise AdapterError(
            f"{file} is damaged or half-written: {problem}", hint="copy or train the adapter again"
        ) from problem
    if not isinstance(content, dict):
        raise AdapterError(f"{file} holds no JSON object", hint="copy or train the adapter again")
    return content
