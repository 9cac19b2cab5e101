"""What an adapter recommends, and an adapter made ready to ship: smaller, with what it reached on dev."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from reges_index.errors import InputError
from reges_index.files import read_json, whole_folder
from reges_index.models.adapters import (
    WEIGHTS_FILE,
    AdapterManifest,
    check_files,
    load_manifest,
    model_card,
    needs_manifest,
    save_manifest,
)
from reges_index.training.steps import content_hash


def recommend(adapter: Path, **inference: object) -> None:
    """Put settings for inference into an adapter's manifest and card, beside the budgets of its training.

    They take the place of all that an earlier call has put there: what a recipe no longer says shall not be
    advised for ever.

    Parameters
    ----------
    adapter
        Its folder; one without manifest is left alone.
    inference
        Settings by name; None is none.

    Raises
    ------
    AdapterError
        If the manifest is damaged.
    StorageError
        If it cannot be written.
    """
    manifest = load_manifest(adapter)
    if manifest is None:
        return
    given = {key: value for key, value in inference.items() if value is not None}
    wanted = {**manifest.training["budgets"], **given}
    if wanted != manifest.inference:
        manifest = manifest.model_copy(update={"inference": wanted})
        save_manifest(manifest, adapter)
        (adapter / "README.md").write_text(model_card(manifest), encoding="utf-8")


def publish_adapter(
    adapter: str | Path,
    out: str | Path,
    *,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    results: Sequence[str | Path] = (),
) -> AdapterManifest:
    """Copy an adapter with its weights in ``dtype`` and its dev results in manifest and model card.

    Parameters
    ----------
    adapter
        A folder that training wrote.
    out
        The folder to write, whole or not at all; an older one is replaced. May be the adapter itself.
    dtype
        Training keeps fp32; bf16 is half the size, and what the weights are computed in anyway on hardware
        that has it.
    results
        JSON files that ``reges evaluate --experiment`` wrote **with this adapter** (checked).

    Returns
    -------
    AdapterManifest
        What was written.

    Raises
    ------
    AdapterError
        If the adapter is damaged or has no manifest.
    InputError
        If a file of results holds none, or those of another adapter.
    StorageError
        If ``out`` cannot be written; what was there before is untouched.
    """
    source, target = Path(adapter).expanduser(), Path(out).expanduser()
    check_files(source)
    manifest = needs_manifest(source)
    found: dict[str, Any] = {}
    for path in results:
        found |= experiment_results(path, adapter=source)
    made = manifest.model_copy(
        update={
            "training": {**manifest.training, "weights": f"trained in fp32, stored in {dtype}"},
            "dev_results": {**manifest.dev_results, **found},
        }
    )
    stored = load_file(source / WEIGHTS_FILE)
    weights = {name: tensor.to(getattr(torch, dtype)) for name, tensor in stored.items()}
    with whole_folder(target) as work:
        shutil.copyfile(source / "adapter_config.json", work / "adapter_config.json")
        # Not safetensors' own save_file, whose files only their owner can read.
        (work / WEIGHTS_FILE).write_bytes(to_bytes(weights, metadata={"format": "pt"}))
        save_manifest(made, work)
        (work / "README.md").write_text(model_card(made), encoding="utf-8")
    return made


def experiment_results(path: str | Path, *, adapter: str | Path) -> dict[str, Any]:
    """Read the results of an experiment, as a manifest's ``dev_results`` hold them.

    Parameters
    ----------
    path
        A JSON file that ``reges evaluate --experiment`` wrote.
    adapter
        The adapter that has to be among those that the experiment ran with.

    Returns
    -------
    dict
        One entry: "table4, inspired/dev.jsonl" to the command, and each row's value with interval and n.

    Raises
    ------
    InputError
        If the file is no such JSON, or the experiment ran without this adapter.
    """
    result = read_json(path)
    try:
        about, name = result["about"], result["experiment"]
        used, turns = about["adapter_files"], about["data"]["files"]["conversations"]["path"]
        command = about["provenance"]["command"]
        rows = {
            " / ".join(str(row[key]) for key in ("setting", "system", "protocol", "metric") if row[key]): {
                "value": row["value"],
                f"{about['settings']['level'] * 100:g} %": [row["low"], row["high"]],
                "n": row["n"],
            }
            for row in result["rows"]
        }
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path} holds no results of an experiment: {error!r}",
            hint="name a file that `reges evaluate --experiment` wrote, such as table4.json",
        ) from error
    own = content_hash(Path(adapter) / WEIGHTS_FILE)
    if own not in used.values():
        known = ", ".join(f"{name} {digest[:12]}" for name, digest in used.items()) or "none"
        raise InputError(
            f"{path} was made with other adapters ({known}), not with {adapter} ({own[:12]})",
            hint="run the experiment with this adapter",
        )
    data = "/".join(Path(turns).parts[-2:])
    return {f"{name}, {data}": {"command": command, **rows}}
