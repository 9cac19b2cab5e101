"""`EvaluationSettings`: what ``reges evaluate`` takes, declared once for YAML, Python and commands."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from reges_index.errors import ConfigError
from reges_index.settings import Section

Dataset: TypeAlias = Literal["redial", "inspired"]
PathText: TypeAlias = Annotated[
    str, BeforeValidator(lambda path: os.fspath(path) if isinstance(path, os.PathLike) else path)
]
"""A path or an address as text; path objects are taken too."""
Count: TypeAlias = Annotated[int, Field(ge=1)]


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


class EvaluationSettings(Section):
    """What an evaluation, an experiment of the paper or a table over domains needs.

    Frozen; unknown keys are refused. The fields' descriptions are what ``reges evaluate --help`` prints.
    """

    conversations: PathText = Field(default="", description="JSONL of turns with targets.")
    catalog: PathText = Field(default="", description="Items: JSONL, CSV or TSV.")
    train: PathText | None = Field(
        default=None, description="JSONL of train turns: for what is popular, and for figure8."
    )
    predictions: dict[str, PathText] = Field(
        default_factory=dict, description="[NAME=]FILE: predictions to score; may be repeated."
    )
    out: PathText | None = Field(default=None, description="Folder of the report, or of the experiments.")
    store: PathText | None = Field(
        default=None,
        description="Catalog store, for the baseline 'retriever' and for experiments; these make one where "
        "none is given.",
    )
    name: str = Field(default="items", description="Name of the catalog within the store.")
    encoder: str | None = Field(
        default=None,
        description="By default ours, and all-MiniLM-L6-v2 for the stock rows of domains.",
    )
    resamples: int = Field(default=10_000, ge=100, description="Bootstrap samples, and swaps of the tests.")
    seed: int = Field(default=0, ge=0, description="Of intervals, tests and draws.")
    level: float = Field(default=0.95, gt=0, lt=1, description="Of the intervals.")
    top_k: Count = Field(
        default=50, description="Length of the candidate list when it is told where targets are lost."
    )
    experiments: tuple[str, ...] = Field(
        default=(),
        description="table1 to table4, figure5 to figure9, ablation, or all; may be repeated. By themselves: "
        "domains, topic_change.",
    )
    domains: PathText | None = Field(default=None, description="Folder of domains, for domains.")
    rows: tuple[str, ...] = Field(
        default=(),
        description="Of domains and topic_change: stock, query-expert, drop-in, embedded, own-llm; may be "
        "repeated; all by default.",
    )
    model: str | None = Field(
        default=None,
        description="The LLM: embedded (the default), a folder, a hub name, openai:MODEL or "
        "openai-like:MODEL@URL. Behind an API the embedded one still writes the trained experts' rows.",
    )
    query_adapter: PathText | None = Field(default=None, description="Folder, or none.")
    item_adapter: PathText | None = Field(default=None, description="Folder, or none.")
    random_adapter: PathText | None = Field(
        default=None, description="Item expert trained with random negatives, for figure6."
    )
    cot_adapter: PathText | None = Field(default=None, description="Chain of thought, for figure9; or none.")
    more_encoders: tuple[str, ...] = Field(
        default=(), description="Further encoders, for figure5, figure7 and domains; may be repeated."
    )
    references: PathText | None = Field(
        default=None,
        description="JSONL of id and query, written in sight of the target: for table2, and the oracle of "
        "figure5 and figure7.",
    )
    dataset: Dataset | None = Field(
        default=None,
        description="inspired or redial: whose values of the paper to show; told from the path by default.",
    )
    candidates: Count = Field(
        default=50, description="Items that the item expert chooses from: the paper's k."
    )
    limit: Count | None = Field(default=None, description="Only the first N turns, or N of each domain.")
    batch_size: Count = Field(default=8, description="Dialogues at once.")

    def paper_dataset(self) -> Dataset | None:
        """Return the data set whose values of the paper stand beside ours: told, or one in the path."""
        if self.dataset is not None:
            return self.dataset
        words = re.split(r"[^a-z]+", self.conversations.lower())
        found: list[Dataset] = [name for name in ("redial", "inspired") if name in words]
        return found[0] if len(found) == 1 else None


_TESTS = ("resamples", "seed", "level")
_SCORING = ("conversations", "catalog", "train", "predictions", "out", "store", "name", "encoder", "top_k")
_NOT_OF_PAPER = ("predictions", "top_k", "domains", "rows")
_TOPIC = ("experiments", "rows", "out", "encoder", "more_encoders", "model", "batch_size", *_TESTS)
JOBS: dict[str, tuple[str, ...]] = {
    "score": (*_SCORING, *_TESTS),
    "paper": tuple(name for name in EvaluationSettings.model_fields if name not in _NOT_OF_PAPER),
    "domains": (*_TOPIC, "domains", "limit"),
    "topic_change": _TOPIC,
}
"""The fields that each kind of run reads; the others would have no effect and are refused."""
