"""An evaluation from files, as ``reges evaluate`` runs it: by arguments or from YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from reges_index.errors import ConfigError
from reges_index.evaluation.baselines import RetrieveBatch
from reges_index.evaluation.checked import Count, Level, PathText, Seed, check_fields
from reges_index.evaluation.data import EvaluationData
from reges_index.evaluation.predictions import load
from reges_index.evaluation.report import write_report
from reges_index.evaluation.scoring import Evaluation, Settings, evaluate_systems
from reges_index.evaluation.titles import TitleMatcher

__all__ = ["EvaluationConfig", "catalog_retrieve", "named_file", "named_files", "run_evaluation"]


@dataclass(frozen=True)
class EvaluationConfig:
    """What ``reges evaluate`` needs to score predictions.

    Attributes
    ----------
    conversations, catalog
        The turns with targets, and the items.
    predictions
        Name in the tables to predictions file; may be empty, the report then has the baselines.
    train
        Train turns, for ``most popular`` and the popularity of what is recommended.
    out
        Folder of the report; None writes none.
    store, name, encoder
        Catalog store (folder or address), its catalog and its encoder, for the baseline ``retriever``; None
        leaves that baseline out.
    resamples, seed, level, top_k
        As in `scoring.Settings`; at least 100 resamples.

    Raises
    ------
    ConfigError
        If conversations or catalog are missing, or a value is of another type or out of bounds.
    """

    conversations: PathText = ""
    catalog: PathText = ""
    predictions: Mapping[str, PathText] = field(default_factory=dict)
    train: PathText | None = None
    out: PathText | None = None
    store: PathText | None = None
    name: str = "items"
    encoder: str | None = None
    resamples: Annotated[int, Field(ge=100)] = 10_000
    seed: Seed = 0
    level: Level = 0.95
    top_k: Count = 50

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("conversations", "catalog"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is missing", hint=f"give --{name}, or {name}: in the YAML file")


def named_file(option: str) -> tuple[str, str]:
    """Read ``NAME=FILE`` or ``FILE`` (then named by its stem)."""
    name, equals, path = option.partition("=")
    # A path may hold "=", so a file of that very name comes first.
    if not equals or Path(option).is_file():
        return Path(option).stem, option
    return name, path


def named_files(options: Sequence[str]) -> dict[str, str]:
    """Read several of what `named_file` reads, each with a name of its own.

    Raises
    ------
    ConfigError
        If two have the same name, or one is no text.
    """
    found: dict[str, str] = {}
    for option in options:
        if not isinstance(option, str):  # from YAML
            raise ConfigError(
                f"predictions: {option!r} is no file", hint="give FILE, NAME=FILE, or a mapping NAME: FILE"
            )
        name, path = named_file(option)
        if name in found:
            raise ConfigError(
                f"two predictions are named {name!r}", hint="name them: --predictions NAME=FILE"
            )
        found[name] = path
    return found


def catalog_retrieve(store: str, name: str, encoder: str | None) -> RetrieveBatch:
    """Open a catalog store and return its batch retrieval, for the baseline ``retriever``."""
    from reges_index.catalog.place import open_catalog_at

    catalog = open_catalog_at(store, name, encoder)

    def retrieve(queries: list[str], top_k: int) -> list[list[str]]:
        return [[item for item, _ in found] for found in catalog.retrieve_batch(queries, top_k)]

    return retrieve


def run_evaluation(
    config: EvaluationConfig, *, command: Sequence[str] | None = None
) -> tuple[Evaluation, dict[str, Any] | None]:
    """Score the predictions and baselines, and write the report where ``config.out`` says.

    Parameters
    ----------
    command
        As for `summary.summarize`.

    Returns
    -------
    The evaluation, and what ``report.json`` holds; None where none was written.

    Raises
    ------
    ReGeSError
        As the parts say: `EvaluationData.read`, `predictions.load`, `evaluate_systems`, `write_report`.
    """
    data = EvaluationData.read(config.conversations, config.catalog, config.train)
    matcher = TitleMatcher(data.items)
    systems = [load(name, path, data, matcher) for name, path in config.predictions.items()]
    retrieve = catalog_retrieve(config.store, config.name, config.encoder) if config.store else None
    settings = Settings(config.resamples, config.seed, config.level, config.top_k)
    evaluation = evaluate_systems(data, systems, settings=settings, retrieve=retrieve)
    summary = write_report(evaluation, config.out, command=command) if config.out else None
    return evaluation, summary
