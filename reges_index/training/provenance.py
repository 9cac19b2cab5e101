"""What an adapter's manifest says of the files it was trained on."""

from __future__ import annotations

from pathlib import Path

from reges_index.models.adapter_card import model_card
from reges_index.models.adapters import DataFile, load_manifest, save_manifest
from reges_index.training.steps import content_hash

__all__ = ["data_file", "recommend"]


def data_file(path: str | Path, rows: int) -> DataFile:
    """Describe a file by folder, name, content and rows used; where it lay on this disk is nobody's business.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    path = Path(path).resolve()
    return DataFile(path=f"{path.parent.name}/{path.name}", sha256=content_hash(path), rows=rows)


def recommend(adapter: Path, **inference: object) -> None:
    """Put settings for inference into an adapter's manifest and model card; None leaves a setting as it is.

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
    wanted = {**manifest.inference, **{key: value for key, value in inference.items() if value is not None}}
    if wanted == manifest.inference:
        return
    manifest = manifest.model_copy(update={"inference": wanted})
    save_manifest(manifest, adapter)
    (adapter / "README.md").write_text(model_card(manifest), encoding="utf-8")
