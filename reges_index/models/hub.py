"""Base models of the Hugging Face hub: from its local cache, else downloaded."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from huggingface_hub import snapshot_download
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from reges_index.errors import ModelNotFoundError

logger = logging.getLogger(__name__)

# Only what this package reads: no .bin, no remote code, no other framework's weights.
_WANTED = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.model", "*.txt"]


def from_hub(name: str, revision: str | None, *, hint: str) -> tuple[Path, Literal["cache", "hub"]]:
    """Return the folder of a model, and whether it was in the local cache or was downloaded now.

    Parameters
    ----------
    name
        As on the hub, such as "HuggingFaceTB/SmolLM2-135M-Instruct".
    revision
        Branch, tag or commit; None for the newest.
    hint
        What to do where the model cannot be had.

    Raises
    ------
    ModelNotFoundError
        If it is not in the cache, and not on the hub or the hub cannot be asked.
    """
    try:
        cached = snapshot_download(name, revision=revision, allow_patterns=_WANTED, local_files_only=True)
        # A snapshot folder can be there with nothing but a tokenizer in it, left by another tool.
        if any(Path(cached).glob("*.safetensors")) and (Path(cached) / "config.json").is_file():
            return Path(cached), "cache"
    except LocalEntryNotFoundError:
        logger.debug("%s is not in the hub's local cache", name)
    except HFValidationError as problem:
        raise ModelNotFoundError(
            f"{name!r} is neither a folder here nor a name that the hub could have: {problem}", hint=hint
        ) from problem
    if HF_HUB_OFFLINE:
        raise ModelNotFoundError(
            f"{name} is in no installed package and not in the hub's local cache, and HF_HUB_OFFLINE is set",
            hint=hint,
        )
    try:
        logger.info("downloading %s from the hub", name)
        path = snapshot_download(name, revision=revision, allow_patterns=_WANTED)
    except GatedRepoError as problem:
        raise ModelNotFoundError(
            f"{name} is gated on the hub and this account may not read it",
            hint="accept its licence on the hub and log in with `hf auth login`",
        ) from problem
    except (RepositoryNotFoundError, RevisionNotFoundError) as problem:
        where = f"{name} at revision {revision}" if revision else name
        raise ModelNotFoundError(f"the hub has no {where}", hint=hint) from problem
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError) as problem:
        raise ModelNotFoundError(
            f"{name} is in no installed package and not in the hub's local cache, "
            f"and the hub cannot be reached ({type(problem).__name__})",
            hint=hint,
        ) from problem
    return Path(path), "hub"
