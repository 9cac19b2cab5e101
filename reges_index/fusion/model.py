"""`FusionModel`: everything that was learnt, as numbers: statistics, and what each feature weighs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes

from reges_index.catalog import ItemCatalog, LiveCatalog
from reges_index.errors import ModelError, ModelNotFoundError
from reges_index.files import write_files
from reges_index.fusion.features import FEATURES
from reges_index.fusion.statistics import ItemStatistics, Neighbours
from reges_index.fusion.topic import SAME_TOPIC, TopicChange

FORMAT = "reges-fusion/6"
_TENSORS, _MANIFEST = "fusion.safetensors", "fusion.json"
# Of the tensors' file, in the manifest's.
_CHECKSUM = "tensors_sha256"
_NEIGHBOURS = ("vectors", "starts", "titles", "shares")
_STATISTICS = ("ids", "titles", "recommended", "recent", "named", "pairs", "pair_counts")


@dataclass(frozen=True, repr=False)
class FusionModel:
    """A trained fusion.

    Attributes
    ----------
    statistics
        Counts over the train dialogues.
    neighbours
        These dialogues by their vectors.
    weights
        Shape (F,): of each of `FEATURES`, in any catalog: statistics that it does not have are 0 there.
    topic
        Tells when a dialogue changes its topic.
    manifest
        Encoder, data and versions it was made with, and how.
    """

    statistics: ItemStatistics
    neighbours: Neighbours
    weights: npt.NDArray[np.float32]
    topic: TopicChange = SAME_TOPIC
    manifest: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Name the encoder that it is for, and what it knows."""
        encoder = self.manifest.get("encoder", {}).get("name")
        return f"FusionModel({self.fingerprint}, encoder={encoder!r}, items={len(self.statistics.ids)})"

    def fits(self, catalog: ItemCatalog | LiveCatalog) -> bool:
        """Whether a catalog's vectors are by the encoder that this was trained with."""
        trained = self.manifest.get("encoder", {})
        encoder = catalog.encoder
        return (trained.get("name"), trained.get("dimension")) == (encoder.name, encoder.dimension)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that a ranking depends on; two models of one fingerprint rank alike."""
        digest = hashlib.sha256()
        for name, values in sorted(self._tensors().items()):
            digest.update(name.encode())
            digest.update(values.tobytes())
        return digest.hexdigest()[:16]

    # -- files -------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the tensors and the manifest into a folder, made if need be.

        A full disk, or a kill while they are written, leaves a model that is there already as it was; what a
        kill leaves in the moment when they take its place, `load` refuses.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        folder = Path(path)
        # Not safetensors' own save_file, whose files only their owner can read.
        tensors = to_bytes(self._tensors())
        manifest = {
            **self.manifest,
            "format": FORMAT,
            "features": list(FEATURES),
            _CHECKSUM: hashlib.sha256(tensors).hexdigest(),
        }
        text = json.dumps(manifest, indent=2, ensure_ascii=False, sort_keys=True)
        # The manifest last: its checksum tells another file from its own, should a kill come between.
        write_files({folder / _TENSORS: tensors, folder / _MANIFEST: (text + "\n").encode()})

    def _tensors(self) -> dict[str, npt.NDArray[Any]]:
        tensors: dict[str, npt.NDArray[Any]] = {
            f"statistics.{name}": getattr(self.statistics, name) for name in _STATISTICS
        }
        tensors["statistics.pairs"] = self.statistics.pairs.astype(np.int32)
        tensors |= {f"neighbours.{name}": getattr(self.neighbours, name) for name in _NEIGHBOURS}
        tensors |= {"weights": self.weights, "topic": self.topic.weights}
        return {name: np.ascontiguousarray(value) for name, value in tensors.items()}

    @classmethod
    def load(cls, path: str | Path) -> FusionModel:
        """Read a folder that `save` wrote.

        Raises
        ------
        ModelNotFoundError
            If there is no such folder or file.
        ModelError
            If it is damaged, mixed from two models, or made for another version's features.
        """
        folder = Path(path)
        for name in (_TENSORS, _MANIFEST):
            if not (folder / name).is_file():
                raise ModelNotFoundError(
                    f"{folder / name}: no such file",
                    hint="a fusion model is a folder made by `reges finetune fusion`",
                )
        try:
            manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            stored = (folder / _TENSORS).read_bytes()
            tensors = from_bytes(stored)
        except (ValueError, SafetensorError) as error:
            raise ModelError(f"{folder} is damaged: {error}", hint="copy or train it again") from error
        if manifest.get("format") != FORMAT or manifest.get("features") != list(FEATURES):
            raise ModelError(
                f"{folder} has format {manifest.get('format')!r} or other features than this version's",
                hint="train it again with `reges finetune fusion`",
            )
        # It says something of the file, not of the model: one that is saved again is still the same.
        if manifest.pop(_CHECKSUM, None) != hashlib.sha256(stored).hexdigest():
            raise ModelError(
                f"{folder / _TENSORS} is not the file that {_MANIFEST} was written with",
                hint="it was changed, or a run was killed while it saved: copy or train it again",
            )
        try:
            counts = {name: tensors[f"statistics.{name}"] for name in _STATISTICS}
            counts["pairs"] = counts["pairs"].astype(np.int64)
            neighbours = Neighbours(**{name: tensors[f"neighbours.{name}"] for name in _NEIGHBOURS})
            topic = TopicChange(tensors["topic"])
            return cls(ItemStatistics(**counts), neighbours, tensors["weights"], topic, manifest)
        except KeyError as error:
            raise ModelError(f"{folder} lacks {error}", hint="copy or train it again") from error

    @classmethod
    def default_for(cls, catalog: ItemCatalog | LiveCatalog) -> FusionModel | None:
        """Return the model that ships with the package if it fits a catalog's encoder, else None."""
        model = cls.default()
        return model if model.fits(catalog) else None

    @classmethod
    def default(cls) -> FusionModel:
        """Return the model that ships with the package; it is for catalogs of the encoder ``reges``."""
        with resources.as_file(resources.files("reges_index.fusion") / "shipped") as folder:
            return cls.load(folder)
