"""`FusionRecipe`: the YAML of finetune/recipes/fusion.yaml, and reading the data sets it names."""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reges_index.catalog import read_items, resolve_encoder
from reges_index.catalog.encoder import embed_queries, encoder_identity
from reges_index.catalog.encoder_names import name_beside
from reges_index.dialogue import read_turns
from reges_index.errors import ConfigError, InputError, StorageError
from reges_index.fusion.fit_adapter import AdapterTraining
from reges_index.fusion.fit_tower import TowerTraining
from reges_index.fusion.fit_weights import WeightTraining
from reges_index.fusion.fitting import TrainSet
from reges_index.fusion.training import FusionTraining, Workbench
from reges_index.models.files import write_files

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding

__all__ = ["FusionRecipe", "VectorCache", "read_recipe"]

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
_CHUNK = 256
# What numpy raises at a file that was cut off or is none of its own.
_DAMAGE = (zipfile.BadZipFile, EOFError, KeyError, ValueError)


class _DataSet(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    conversations: Path
    catalog: Path


class FusionRecipe(BaseModel):
    """How a fusion is trained.

    Attributes
    ----------
    data
        Train sets; of each the turns and the catalog.
    out
        Folder of the model.
    cache
        Folder where vectors are kept between runs.
    encoder
        "embedded", a model's name or a folder.
    folds, adapter, weights
        Fields of `FusionTraining`, `AdapterTraining` and `WeightTraining`.
    query_tower
        Fields of `TowerTraining`; left out, no query tower is trained.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: tuple[_DataSet, ...] = Field(min_length=1)
    out: Path
    cache: Path
    encoder: str = "embedded"
    folds: int = Field(default=3, ge=2)
    adapter: AdapterTraining = AdapterTraining()
    weights: WeightTraining = WeightTraining()
    query_tower: TowerTraining | None = None

    @property
    def settings(self) -> FusionTraining:
        """Settings of the fit."""
        return FusionTraining(self.adapter, self.weights, self.folds, tower=self.query_tower)

    def bench(self, embed_model: BaseEmbedding | None = None) -> Workbench:
        """Return what a query tower is trained with; an encoder that is given goes before the recipe's."""
        return Workbench(resolve_encoder(embed_model or self.encoder), self.cache)

    def manifest(self, embed_model: BaseEmbedding | None = None) -> dict[str, Any]:
        """Return what the model records: encoder (as for `bench`), data by hash, settings, versions."""
        identity = encoder_identity(embed_model or self.encoder)
        return {
            "encoder": {
                "name": identity.name,
                "dimension": identity.dimension,
                "text_template": identity.text_template,
            },
            "data": [
                {
                    "name": its.name,
                    **{kind: _sha256(getattr(its, kind)) for kind in ("conversations", "catalog")},
                }
                for its in self.data
            ],
            "settings": self.fitted_with(),
            "versions": {name: version(name) for name in ("reges-index", "torch", "numpy", "bm25s", "peft")},
        }

    def fitted_with(self) -> dict[str, Any]:
        """Return the settings of the fit as plain data."""
        return self.model_dump(mode="json", include={"folds", "adapter", "weights", "query_tower"})

    def train_sets(self, embed_model: BaseEmbedding | None = None) -> list[TrainSet]:
        """Read and embed all data sets; encoder as for `bench`."""
        cache = VectorCache(self.cache, embed_model or self.encoder)
        return [
            TrainSet.build(
                its.name, read_turns(its.conversations), read_items(its.catalog), cache.texts, cache.queries
            )
            for its in self.data
        ]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_recipe(path: str | Path) -> FusionRecipe:
    """Read a recipe; its paths are relative to the file, also an encoder's folder that begins with ``.``.

    Raises
    ------
    ConfigError
        If it is no YAML, or a field is missing, unknown or wrong.
    InputError
        If the file cannot be read, or is not UTF-8.
    """
    source = Path(path)
    try:
        raw = yaml.safe_load(source.read_text(encoding="utf-8"))
        recipe = FusionRecipe.model_validate(raw)
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source}: not UTF-8 (byte {error.start})", hint="convert the file to UTF-8"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: no valid YAML: {error}") from error
    except RecursionError as error:
        raise ConfigError(
            f"{source}: nested too deeply to be read", hint="see finetune/recipes/fusion.yaml"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"{source}: {place}: {first['msg']}", hint="see finetune/recipes/fusion.yaml"
        ) from error
    folder = source.parent
    return recipe.model_copy(
        update={
            "encoder": name_beside(folder, recipe.encoder),
            "out": folder / recipe.out,
            "cache": folder / recipe.cache,
            "data": tuple(
                its.model_copy(
                    update={"conversations": folder / its.conversations, "catalog": folder / its.catalog}
                )
                for its in recipe.data
            ),
        }
    )


class VectorCache:
    """Vectors by text, kept in a folder: one file for each kind of text and encoder, written as they come.

    Parameters
    ----------
    folder
        Made if need be.
    encoder
        As for `resolve_encoder`; it is loaded only when something is missing.

    Raises
    ------
    InputError
        If a file of vectors may not be read. A damaged one counts as empty, and is written anew.
    StorageError
        If vectors cannot be written.
    """

    def __init__(self, folder: Path, encoder: BaseEmbedding | str) -> None:
        self._folder, self._encoder = folder, encoder
        self._identity = encoder_identity(encoder)

    def texts(self, texts: Sequence[str]) -> Floats:
        """Return unit vectors of items' texts, shape (n, d)."""
        return self._get("text", texts)

    def queries(self, texts: Sequence[str]) -> Floats:
        """Return unit vectors of queries, shape (n, d)."""
        return self._get("query", texts)

    def _get(self, kind: str, texts: Sequence[str]) -> Floats:
        if not texts:
            return np.zeros((0, self._identity.dimension), dtype=np.float32)
        name = hashlib.sha256(f"{self._identity}|{kind}".encode()).hexdigest()[:16]
        file = self._folder / f"{kind}-{name}.npz"
        known = _read_vectors(file)
        keys = [hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest() for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        for start in range(0, len(missing), _CHUNK):
            part = list(missing)[start : start + _CHUNK]
            rows = self._embed(kind, [missing[key] for key in part])
            known |= dict(zip(part, rows / np.linalg.norm(rows, axis=1, keepdims=True), strict=True))
            _write_vectors(file, known)
            logger.info("embedded %d of %d %s texts", start + len(part), len(missing), kind)
        return np.stack([known[key] for key in keys])

    def _embed(self, kind: str, texts: list[str]) -> Floats:
        model = resolve_encoder(self._encoder)
        rows = embed_queries(model, texts) if kind == "query" else model.get_text_embedding_batch(texts)
        return np.asarray(rows, dtype=np.float32)


def _read_vectors(file: Path) -> dict[str, Floats]:
    try:
        with np.load(file, allow_pickle=False) as kept:
            return dict(zip(kept["keys"].tolist(), kept["vectors"], strict=True))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read ({error.strerror or error})",
            hint="make it readable, or name another cache in the recipe",
        ) from error
    except _DAMAGE as error:
        logger.warning("%s is damaged (%s): its vectors are made again", file, error)
        return {}


def _write_vectors(file: Path, vectors: Mapping[str, Floats]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, keys=np.array(list(vectors)), vectors=np.stack(list(vectors.values())))
    try:
        write_files({file: buffer.getvalue()})
    except OSError as error:
        raise StorageError(
            f"{file}: vectors cannot be written ({error.strerror or error})",
            hint="free some space, or name another cache in the recipe; those written so far are kept",
        ) from error
