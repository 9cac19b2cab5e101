"""`QueryTower`: the encoder with a LoRA adapter, for dialogues; items stay where the frozen one puts them."""

from __future__ import annotations

import hashlib
import json
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as to_bytes

from reges_index.errors import ConfigError, ModelError
from reges_index.models.files import write_files

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from sentence_transformers import SentenceTransformer

__all__ = ["QueryTower", "TowerAdapter", "tower_base"]

Floats = npt.NDArray[np.float32]

_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
# Apart from PEFT's file, which warns of keys that it does not know.
_OURS = "reges_tower.json"
_BATCH = 32

_running: dict[str, QueryTower] = {}
_starting = threading.Lock()


@dataclass(frozen=True)
class TowerAdapter:
    """LoRA weights on a sentence encoder (two towers, of which only the query's is trained).

    Saved as a PEFT adapter folder, which ``PeftModel.from_pretrained`` loads too.

    Attributes
    ----------
    weights
        PEFT's names to arrays.
    config
        PEFT's ``adapter_config.json``: rank, alpha, target modules.
    max_tokens
        How much of a dialogue, newest message first, the tower reads.
    """

    weights: Mapping[str, Floats]
    config: Mapping[str, Any]
    max_tokens: int = 128

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that a vector depends on."""
        digest = hashlib.sha256(json.dumps([self.max_tokens, self.config], sort_keys=True).encode())
        for name, values in sorted(self.weights.items()):
            digest.update(name.encode())
            digest.update(values.astype(np.float16).tobytes())
        return digest.hexdigest()[:16]

    def files(self) -> dict[str, bytes]:
        """Return the files of a PEFT adapter folder, in half precision, by name."""
        tensors = {n: np.ascontiguousarray(w.astype(np.float16)) for n, w in self.weights.items()}
        # Not safetensors' own save_file, whose files only their owner can read.
        made = {_WEIGHTS: to_bytes(tensors, metadata={"format": "pt"})}
        for name, content in ((_CONFIG, self.config), (_OURS, {"max_tokens": self.max_tokens})):
            made[name] = (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
        return made

    def save(self, folder: Path) -> None:
        """Write `files` into a folder, made if need be."""
        write_files({folder / name: content for name, content in self.files().items()})

    @classmethod
    def load(cls, folder: Path) -> TowerAdapter:
        """Read a folder that `save` wrote.

        Raises
        ------
        ModelError
            If a file is missing or damaged.
        """
        try:
            config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
            weights = {n: w.astype(np.float32) for n, w in load_file(folder / _WEIGHTS).items()}
            max_tokens = int(json.loads((folder / _OURS).read_text(encoding="utf-8"))["max_tokens"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ModelError(
                f"{folder} is no query tower, or damaged: {error!r}", hint="copy or train it again"
            ) from error
        return cls(weights, config, max_tokens)


class QueryTower:
    """Embeds dialogues with a trained adapter; may be used by several threads.

    Parameters
    ----------
    adapter
        The trained weights; they are merged into a copy of the base.
    base
        The frozen encoder's model; it is changed, so give a copy of its own.

    Raises
    ------
    ModelError
        If the weights are not for this encoder.
    """

    def __init__(self, adapter: TowerAdapter, base: SentenceTransformer) -> None:
        import torch
        from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

        config = LoraConfig(**{**adapter.config, "inference_mode": True})
        try:
            with warnings.catch_warnings():
                # With transformers 5, of an attribute that PEFT itself reads.
                warnings.simplefilter("ignore", FutureWarning)
                model = get_peft_model(base[0].auto_model, config)
            weights = {name: torch.from_numpy(np.array(w)) for name, w in adapter.weights.items()}
            result = set_peft_model_state_dict(model, weights)
        except (ValueError, RuntimeError) as error:
            raise ModelError(
                f"the query tower does not fit the catalog's encoder: {error}",
                hint="use the encoder that the fusion was trained with",
            ) from error
        lost = [key for key in result.missing_keys if "lora_" in key] + list(result.unexpected_keys)
        if lost:
            raise ModelError(
                f"the query tower does not fit the catalog's encoder: {len(lost)} tensors, such as {lost[0]}",
                hint="use the encoder that the fusion was trained with",
            )
        base[0].auto_model = model.merge_and_unload()
        base.max_seq_length = adapter.max_tokens
        self._model = base.eval()
        self._lock = threading.Lock()

    @classmethod
    def shared(cls, adapter: TowerAdapter, embed_model: BaseEmbedding) -> QueryTower:
        """Return the tower over a catalog's encoder, built once per process."""
        key = f"{adapter.fingerprint} {embed_model.model_name}"
        with _starting:
            if key not in _running:
                _running[key] = cls(adapter, tower_base(embed_model))
            return _running[key]

    def encode(self, texts: Sequence[str]) -> Floats:
        """Return unit vectors, shape (n, d)."""
        with self._lock:
            found = self._model.encode(
                list(texts), batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False
            )
        return np.asarray(found, dtype=np.float32)


def tower_base(embed_model: BaseEmbedding) -> SentenceTransformer:
    """Return a copy, of its own, of the model in a local sentence encoder.

    Raises
    ------
    ConfigError
        If the encoder is behind an API, has two sides of its own, or is no sentence-transformers model.
    """
    import copy

    from sentence_transformers import SentenceTransformer

    inner = getattr(embed_model, "_model", None)
    if not isinstance(inner, SentenceTransformer) or not hasattr(inner[0], "auto_model"):
        raise ConfigError(
            f"encoder {embed_model.model_name!r} is no sentence-transformers model: no query side to train",
            hint="leave query_tower out of the recipe",
        )
    return copy.deepcopy(inner)
