"""`FusionModel`: everything trained, as numbers: adapter, statistics, and what each feature weighs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_index.core.schema import NodeWithScore
from safetensors import SafetensorError
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes

from reges_index.catalog import ItemCatalog, LiveCatalog
from reges_index.errors import ModelError, ModelNotFoundError, StorageError
from reges_index.fusion.adapter import BLOCKS, TOWER, QueryAdapter
from reges_index.fusion.alone import rank_alone
from reges_index.fusion.choice import ChoiceWeights, choose
from reges_index.fusion.features import FEATURES
from reges_index.fusion.scorer import TENSORS, Scorer
from reges_index.fusion.statistics import ItemStatistics
from reges_index.fusion.tower import TowerAdapter
from reges_index.item_expert.rerank import Ranking
from reges_index.models.files import write_files

__all__ = ["FORMAT", "FusionModel"]

Floats = npt.NDArray[np.float32]

FORMAT = "reges-fusion/3"
# Version 2 is the same without a query tower.
_READABLE = ("reges-fusion/2", FORMAT)
_TENSORS, _MANIFEST, _TOWER = "fusion.safetensors", "fusion.json", "query-tower"
# Of the tensors' file, in the manifest's; models that were written without it load unchecked.
_CHECKSUM = "tensors_sha256"
_STATISTICS = ("ids", "titles", "recommended", "recent", "named", "pairs", "pair_counts")


@dataclass(frozen=True)
class FusionModel:
    """A trained fusion.

    Attributes
    ----------
    adapter, statistics
        The trained query side, and counts over the train dialogues.
    known, unknown
        What gives the scores in a catalog whose items the train dialogues know, and in one that they do not
        know at all. In between their scores are mixed by the share of known items.
    choice
        Of the final choice.
    manifest
        Encoder, data and versions it was made with, and how.
    tower
        Trained weights of the encoder's query side; None where only the maps of ``adapter`` were trained.
    """

    adapter: QueryAdapter
    statistics: ItemStatistics
    known: Scorer
    unknown: Scorer
    choice: ChoiceWeights = field(default_factory=ChoiceWeights)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    tower: TowerAdapter | None = None

    def fits(self, catalog: ItemCatalog) -> bool:
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
        digest.update(f"{self.choice}{self.tower.fingerprint if self.tower else ''}".encode())
        return digest.hexdigest()[:16]

    def score(self, features: Floats, share_known: float) -> Floats:
        """Return scores, shape (N,), from features, shape (N, F).

        Parameters
        ----------
        share_known
            Of the catalog's items, how many the train dialogues know, 0 to 1.
        """
        # Half a catalog known is as good as all of it: rare items are unknown in the train sets too.
        share = min(1.0, 2 * share_known)
        if share in (0.0, 1.0):
            return self.known(features) if share else self.unknown(features)
        mixed: Floats = share * self.known(features) + (1 - share) * self.unknown(features)
        return mixed

    def with_choice(self, choice: ChoiceWeights) -> FusionModel:
        """Return the model with other weights of the final choice."""
        return replace(self, choice=choice)

    def choose(self, ranking: Ranking) -> Ranking:
        """Fuse LLM_G's ranking with the retrieval; see `reges_index.fusion.choice.choose`."""
        return choose(self.choice, ranking)

    @property
    def decides_alone(self) -> bool:
        """Whether LLM_G has no weight in the final choice, so that it need not be asked."""
        return self.choice.model == 0

    @property
    def uses_query(self) -> bool:
        """Whether the refined query has any weight; without, it is only shown."""
        return self.known.uses("dense_query") or self.unknown.uses("dense_query")

    def rank_alone(self, nodes: Sequence[NodeWithScore]) -> Ranking:
        """Rank without LLM_G; see `rank_alone`. The report says ``uses_query``, too."""
        ranking = rank_alone(self.choice, nodes)
        rerank = {**ranking.report["rerank"], "uses_query": self.uses_query}
        return Ranking(ranking.candidates, {**ranking.report, "rerank": rerank})

    # -- files -------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the tensors, the manifest and the query tower into a folder, made if need be.

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
            "choice": {"retrieval": self.choice.retrieval, "model": self.choice.model},
            "tower": self.tower.fingerprint if self.tower is not None else None,
            _CHECKSUM: hashlib.sha256(tensors).hexdigest(),
        }
        text = json.dumps(manifest, indent=2, ensure_ascii=False, sort_keys=True)
        files = {folder / _TENSORS: tensors}
        if self.tower is not None:
            files |= {folder / _TOWER / name: content for name, content in self.tower.files().items()}
        # Last: its checksums tell other files from its own, should a kill come between two of them.
        files[folder / _MANIFEST] = (text + "\n").encode()
        try:
            write_files(files)
        except OSError as error:
            raise StorageError(
                f"the fusion model cannot be written to {folder}: {error.strerror or error}",
                hint="free some space, or choose a folder that can be written",
            ) from error

    def _tensors(self) -> dict[str, npt.NDArray[Any]]:
        tensors: dict[str, npt.NDArray[Any]] = {
            f"statistics.{name}": getattr(self.statistics, name) for name in _STATISTICS
        }
        # Rows of at most 2**15 items fit into 16 bits; half precision moves a score by less than 0.01.
        tensors["statistics.pairs"] = self.statistics.pairs.astype(np.int32)
        tensors["adapter.bias_keys"] = self.adapter.bias_keys
        tensors["adapter.biases"] = self.adapter.biases.astype(np.float16)
        tensors |= {f"adapter.{name}": m.astype(np.float16) for name, m in self.adapter.weights.items()}
        for kind, scorer in (("known", self.known), ("unknown", self.unknown)):
            tensors |= {f"{kind}.{name}": getattr(scorer, name) for name in TENSORS}
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
        if manifest.get("format") not in _READABLE or manifest.get("features") != list(FEATURES):
            raise ModelError(
                f"{folder} has format {manifest.get('format')!r} or other features than this version's",
                hint="train it again with `reges finetune fusion`",
            )
        # It says something of the file, not of the model: one that is saved again is still the same.
        checksum = manifest.pop(_CHECKSUM, None)
        if checksum and checksum != hashlib.sha256(stored).hexdigest():
            raise ModelError(
                f"{folder / _TENSORS} is not the file that {_MANIFEST} was written with",
                hint="it was changed, or a run was killed while it saved: copy or train it again",
            )
        try:
            counts = {name: tensors[f"statistics.{name}"] for name in _STATISTICS}
            counts["pairs"] = counts["pairs"].astype(np.int64)
            tower = TowerAdapter.load(folder / _TOWER) if manifest.get("tower") else None
            if tower is not None and tower.fingerprint != manifest["tower"]:
                raise ModelError(
                    f"{folder / _TOWER} is not the query tower that this model was trained with",
                    hint="copy or train it again",
                )
            blocks = (*BLOCKS, TOWER) if tower is not None else BLOCKS
            adapter = QueryAdapter(
                {name: tensors[f"adapter.{name}"].astype(np.float32) for name in blocks},
                tensors["adapter.bias_keys"],
                tensors["adapter.biases"].astype(np.float32),
            )
            return cls(
                adapter=adapter,
                statistics=ItemStatistics(**counts),
                known=Scorer(**{name: tensors[f"known.{name}"] for name in TENSORS}),
                unknown=Scorer(**{name: tensors[f"unknown.{name}"] for name in TENSORS}),
                choice=ChoiceWeights(**manifest["choice"]),
                manifest=manifest,
                tower=tower,
            )
        except (KeyError, TypeError) as error:
            raise ModelError(f"{folder} lacks {error}", hint="copy or train it again") from error

    @classmethod
    def default_for(cls, catalog: ItemCatalog | LiveCatalog) -> FusionModel | None:
        """Return the model that ships with the package if it fits a catalog's encoder, else None."""
        model = cls.default()
        return model if model.fits(catalog.current if isinstance(catalog, LiveCatalog) else catalog) else None

    @classmethod
    def default(cls) -> FusionModel:
        """Return the model that ships with the package, trained on INSPIRED and ReDial dialogues."""
        with resources.as_file(resources.files("reges_index.fusion") / "shipped") as folder:
            return cls.load(folder)
