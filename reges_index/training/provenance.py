"""What an adapter's manifest says of the files it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reges_index.files import sha256_of
from reges_index.models.adapters import AdapterManifest, DataFile, load_manifest, model_card, save_manifest

__all__ = ["data_file", "recommend"]

_BUDGETS = ("max_input_tokens", "max_history_tokens", "max_candidate_tokens")


def data_file(path: str | Path, rows: int) -> DataFile:
    """Describe a file by folder, name, content and rows used; where it lay on this disk is nobody's business.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    path = Path(path).resolve()
    return DataFile(path=f"{path.parent.name}/{path.name}", sha256=sha256_of(path), rows=rows)


def recommend(adapter: Path, **inference: object) -> None:
    """Put settings for inference into an adapter's manifest and model card.

    They go before the budgets that its training has recorded, and take the place of all that an earlier call
    has put there: what a recipe no longer says shall not be advised for ever.

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
    wanted = {**_trained_with(manifest), **{key: v for key, v in inference.items() if v is not None}}
    if wanted == manifest.inference:
        return
    manifest = manifest.model_copy(update={"inference": wanted})
    save_manifest(manifest, adapter)
    (adapter / "README.md").write_text(model_card(manifest), encoding="utf-8")


def _trained_with(manifest: AdapterManifest) -> dict[str, Any]:
    """Return the budgets of an adapter's training, also of one from before they were kept apart."""
    kept = manifest.training.get("budgets")
    if isinstance(kept, dict):
        return kept
    return {key: value for key, value in manifest.inference.items() if key in _BUDGETS}
