"""A lab from files and options, as ``reges evaluate --experiment`` builds it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from reges_index.errors import ConfigError, InputError
from reges_index.evaluation.checked import Count, Level, PathText, Seed, check_fields
from reges_index.evaluation.data import EvaluationData
from reges_index.evaluation.experiments.lab import (
    COT_ADAPTER,
    ITEM_ADAPTER,
    QUERY_ADAPTER,
    RANDOM_ADAPTER,
    Lab,
    LabSettings,
)
from reges_index.evaluation.experiments.paper import TABLE1, Dataset
from reges_index.evaluation.files import json_lines

if TYPE_CHECKING:
    from reges_index.catalog import ItemCatalog
    from reges_index.fusion.model import FusionModel
    from reges_index.models import LocalLM

__all__ = ["ExperimentConfig", "build_lab", "read_references"]

_DATASETS = tuple(TABLE1["KBRD"])


@dataclass(frozen=True)
class ExperimentConfig:
    """What the experiments need.

    Attributes
    ----------
    conversations, catalog, out
        Turns with targets, items, and the folder for results and runs.
    train
        Train turns, for Figure 8 and the baselines.
    references
        JSONL of ``{"id", "query"}``, for Table 2.
    store, name, encoder
        Catalog store and its encoder. Without a store one is made in ``out/store``.
    more_encoders
        Further encoders for Figures 5 and 7, each with a catalog of its own in ``out/store``.
    model
        Folder or hub name; None is the embedded default.
    query_adapter, item_adapter, random_adapter, cot_adapter
        Folders of adapters, or ``none``. None takes what ships with the embedded default.
    dataset
        ``inspired`` or ``redial``: whose values of the paper stand beside ours. None tells it from the
        path of the conversations, where one of the names stands in it.
    fusion
        Folder of a trained fusion, or ``none``. None takes the shipped one where it fits the encoder.
    limit
        Only the first turns.
    candidates, candidate_counts, max_candidate_tokens, max_history_tokens
        As in `lab.LabSettings`.
    batch_size, train_sample, resamples, seed, level
        As in `lab.LabSettings`; at least 100 resamples.

    Raises
    ------
    ConfigError
        If a value is of another type or out of bounds.
    """

    conversations: PathText
    catalog: PathText
    out: PathText
    train: PathText | None = None
    references: PathText | None = None
    store: PathText | None = None
    name: str = "items"
    encoder: str | None = None
    more_encoders: Sequence[str] = ()
    model: PathText | None = None
    query_adapter: PathText | None = None
    item_adapter: PathText | None = None
    random_adapter: PathText | None = None
    cot_adapter: PathText | None = None
    dataset: str | None = None
    fusion: PathText | None = None
    limit: Count | None = None
    candidates: Count = 50
    candidate_counts: Annotated[tuple[Count, ...], Field(min_length=1)] = (10, 50)
    max_candidate_tokens: Count | None = None
    max_history_tokens: Count | None = None
    batch_size: Count = 8
    train_sample: Annotated[int, Field(ge=2)] = 200
    resamples: Annotated[int, Field(ge=100)] = 10_000
    seed: Seed = 0
    level: Level = 0.95

    def __post_init__(self) -> None:
        check_fields(self)

    def paper_dataset(self) -> Dataset | None:
        """Return whose values of the paper apply."""
        if self.dataset is not None:
            if self.dataset not in _DATASETS:
                raise ConfigError(
                    f"the paper has no data set {self.dataset!r}", hint=f"it has {' and '.join(_DATASETS)}"
                )
            return self.dataset
        words = re.split(r"[^a-z]+", self.conversations.lower())
        found = [name for name in _DATASETS if name in words]
        return found[0] if len(found) == 1 else None


def read_references(path: str | Path) -> dict[str, str]:
    """Read ``{"id", "query"}`` lines.

    Raises
    ------
    InputError
        If a line has no id or query.
    """
    found: dict[str, str] = {}
    for number, row in json_lines(path):
        if not isinstance(row.get("id"), str) or not isinstance(row.get("query"), str):
            raise InputError(f"{path}:{number}: expected 'id' and 'query', two texts")
        found[row["id"]] = row["query"]
    return found


def _open_model(config: ExperimentConfig) -> LocalLM:
    from reges_index.models import LocalLM

    given = {
        QUERY_ADAPTER: config.query_adapter,
        ITEM_ADAPTER: config.item_adapter,
        RANDOM_ADAPTER: config.random_adapter,
        COT_ADAPTER: config.cot_adapter,
    }
    # A model of its own, as adapters are loaded into it: the default one is shared by the whole process.
    lm = LocalLM.from_pretrained(config.model)
    shipped = LocalLM.shipped_adapters() if config.model is None else {}
    for name, folder in given.items():
        chosen = shipped.get(name) if folder is None else folder
        if chosen is not None and chosen != "none":
            lm.load_adapter(name, chosen, role=ITEM_ADAPTER if name == RANDOM_ADAPTER else name)
    return lm


def _open_catalogs(
    config: ExperimentConfig, data: EvaluationData
) -> tuple[ItemCatalog, dict[str, ItemCatalog]]:
    from reges_index.catalog import ItemCatalog, LiveCatalog
    from reges_index.catalog.place import open_catalog_at

    made = Path(config.out) / "store"
    if config.store is None:
        catalog = ItemCatalog.from_items(
            data.items, persist_dir=made, name=config.name, embed_model=config.encoder
        )
    else:
        opened = open_catalog_at(config.store, config.name, config.encoder)
        # All experiments read one version, whatever is swapped while they run.
        catalog = opened.current if isinstance(opened, LiveCatalog) else opened
    more = {
        encoder: ItemCatalog.from_items(
            data.items, persist_dir=made, name=f"more-{number}", embed_model=encoder
        )
        for number, encoder in enumerate(config.more_encoders)
    }
    return catalog, more


def _open_fusion(config: ExperimentConfig, catalog: ItemCatalog) -> FusionModel | None:
    from reges_index.fusion.model import FusionModel

    if config.fusion == "none":
        return None
    if config.fusion is not None:
        return FusionModel.load(config.fusion)
    shipped = FusionModel.default()
    return shipped if shipped.fits(catalog) else None


def build_lab(config: ExperimentConfig, *, command: Sequence[str] | None = None) -> Lab:
    """Read the data, open catalog and model, and put the lab together.

    Raises
    ------
    ReGeSError
        As the parts say.
    """
    dataset = config.paper_dataset()
    data = EvaluationData.read(config.conversations, config.catalog, config.train)
    if config.limit is not None:
        data = data.subset(data.turns[: config.limit])
    references = read_references(config.references) if config.references else {}
    catalog, more = _open_catalogs(config, data)
    shared = {f.name for f in fields(LabSettings)} & {f.name for f in fields(ExperimentConfig)}
    values: dict[str, Any] = {name: getattr(config, name) for name in shared - {"dataset"}}
    return Lab(
        data=data,
        catalog=catalog,
        folder=Path(config.out),
        lm=_open_model(config),
        settings=LabSettings(dataset=dataset, **values),
        references=references,
        retrievers=more,
        fusion=_open_fusion(config, catalog),
        command=command,
    )
