"""What experts are trained on: a data set as files, and the same read."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from reges_index.catalog import Item, demo_catalog, read_items
from reges_index.catalog.encoder_names import name_beside
from reges_index.dialogue import Turn, one_line, read_turns
from reges_index.dialogue.wording import MOVIES, Domain
from reges_index.errors import ConfigError
from reges_index.files import json_lines, sha256_of
from reges_index.models.adapters import DataFile
from reges_index.training.config import Place
from reges_index.training.pseudo_queries import read_notes
from reges_index.training.rankings import read_rankings

T = TypeVar("T")

_DEMO = "demo:"


def _model_beside(name: str, info: ValidationInfo) -> str:
    folder = (info.context or {}).get("folder")
    return name if folder is None else name_beside(folder, name)


ModelName = Annotated[str, AfterValidator(_model_beside)]
"""A model's name; a folder that begins with ``.`` is relative to the YAML file in which it stands."""


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, (str, Path)) else value


_Files = Annotated[tuple[Place, ...], BeforeValidator(_several)]


class DataSet(BaseModel):
    """Conversations with their catalog and what else is known of them: one file of each kind, or several.

    Attributes
    ----------
    name
        For file names.
    conversations, catalog
        Turns (JSONL) and items (JSONL or CSV, or ``demo:films``).
    pseudo_queries
        Queries that are there already, taken as they are; without them a teacher writes them.
    reasoning
        The same for the chain-of-thought variant.
    teacher_rankings
        Rankings that are there already, a teacher's or the predictions of a larger pipeline.
    hard_negatives
        Rankings of what the retriever finds, with the true items or without; mined where there are none.
    item_noun
        What an item is called here, where that is not what the recipe says.
    share
        Share of the dialogues that are trained on; an encoder takes another part of them in each pass.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(default="data", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    conversations: _Files
    catalog: _Files = ()
    pseudo_queries: _Files = ()
    reasoning: _Files = ()
    teacher_rankings: _Files = ()
    hard_negatives: _Files = ()
    item_noun: str | None = None
    share: float = Field(default=1.0, gt=0, le=1)

    _KINDS = ("conversations", "catalog", "pseudo_queries", "reasoning", "teacher_rankings", "hard_negatives")

    def only(self, *kinds: str) -> DataSet:
        """Return the data set with these kinds of files and no others."""
        return self.model_copy(update=dict.fromkeys({*self._KINDS} - {*kinds}, ()))

    @property
    def files(self) -> tuple[Path, ...]:
        """All of its files, without the demo catalogs, which belong to the package."""
        found = [path for kind in self._KINDS for path in getattr(self, kind)]
        return tuple(path for path in found if not str(path).startswith(_DEMO))


@dataclass
class TrainingData:
    """A data set as training reads it.

    Attributes
    ----------
    turns
        Recommendation turns, as they were read.
    items
        The catalog by id.
    queries
        Turn id -> pseudo-query, from a file of them or in the turn's own field ``query``.
    retrieved
        Turn id -> ids of what the retriever found, the nearest first; targets of the turn may be among them.
    reasoning
        Turn id -> the seeker's preferences in words, for the chain-of-thought variant.
    rankings, suitable
        Turn id -> ids of items that fit, best first: by a teacher, or by the turn's own ``suitable``.
    domain
        What an item is called.
    files
        What it was read from, for the manifest.
    """

    turns: Sequence[Turn]
    items: Mapping[str, Item] = field(default_factory=dict)
    queries: Mapping[str, str] = field(default_factory=dict)
    retrieved: Mapping[str, Sequence[str]] = field(default_factory=dict)
    reasoning: Mapping[str, str] = field(default_factory=dict)
    rankings: Mapping[str, Sequence[str]] = field(default_factory=dict)
    suitable: Mapping[str, Sequence[str]] = field(default_factory=dict)
    domain: Domain = MOVIES
    files: Sequence[DataFile] = ()

    @cached_property
    def fitting(self) -> Mapping[str, Sequence[str]]:
        """Turn id -> ids of items that fit: ``suitable`` goes before a teacher's ranking."""
        return {**self.rankings, **self.suitable}

    @cached_property
    def labelled(self) -> list[Turn]:
        """The turns; those without targets have the first of what fits as theirs.

        So dialogues which nobody has labelled are enough to train both experts.
        """
        return [
            turn.model_copy(update={"targets": tuple(self.fitting[turn.id][:1])})
            if not turn.targets and turn.id in self.fitting
            else turn
            for turn in self.turns
        ]


def read_data(its: DataSet, domain: Domain = MOVIES) -> TrainingData:
    """Read all files of a data set.

    Raises
    ------
    ConfigError
        If an id is in two files of one kind.
    InputError
        Naming the file, and what is wrong in it.
    """
    files: list[DataFile] = []

    def read(paths: Iterable[Path], one: Callable[[Path], dict[str, T]]) -> dict[str, T]:
        merged: dict[str, T] = {}
        for path in paths:
            own = one(path)
            twice = next((key for key in own if key in merged), None)
            if twice is not None:
                raise ConfigError(
                    f"{path}: id {twice!r} is in another of the files too", hint="ids have to be unique"
                )
            merged |= own
            if not str(path).startswith(_DEMO):
                # By folder and name: where it lay on this disk is nobody's business.
                whole = path.resolve()
                name = f"{whole.parent.name}/{whole.name}"
                files.append(DataFile(path=name, sha256=sha256_of(path), rows=len(own)))
        return merged

    everyone = read(its.conversations, lambda path: {turn.id: turn for turn in read_turns(path)})
    turns = share_of_dialogues(list(everyone.values()), its.share)
    items = read(its.catalog, _items)
    ranked = read(its.teacher_rankings, lambda path: read_rankings(path, turns=turns, items=items))
    retrieved = read(its.hard_negatives, lambda path: read_rankings(path, turns=turns, items=items))
    rows = {str(row["id"]): row for path in its.conversations for _, row in json_lines(path)}
    own = {key: one_line(str(row["query"])) for key, row in rows.items() if row.get("query")}
    written = read(its.pseudo_queries, lambda path: read_notes(path, "query", turns=everyone.values()))
    return TrainingData(
        turns,
        items,
        {**own, **written},
        retrieved,
        read(its.reasoning, lambda path: read_notes(path, "reasoning", turns=everyone.values())),
        ranked,
        {key: list(map(str, row["suitable"])) for key, row in rows.items() if row.get("suitable")},
        domain if its.item_noun is None else Domain.parse(its.item_noun),
        files,
    )


def domain_sets(folder: Path) -> list[DataSet]:
    """Return a data set for each folder in ``folder``, which holds ``catalog.jsonl`` and ``turns.jsonl``.

    Raises
    ------
    ConfigError
        If there is none.
    """
    places = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not places:
        raise ConfigError(f"domains: no folder in {folder}", hint="each has turns and catalog")
    return [
        DataSet(name=place.name, conversations=(place / "turns.jsonl",), catalog=(place / "catalog.jsonl",))
        for place in places
    ]


def _items(source: Path) -> dict[str, Item]:
    name = str(source)
    found = demo_catalog(name.removeprefix(_DEMO)) if name.startswith(_DEMO) else read_items(source)
    return {item.id: item for item in found}


def share_of_dialogues(turns: Sequence[Turn], share: float) -> list[Turn]:
    """Return the turns of a share of the dialogues, always the same ones."""
    if share == 1:
        return list(turns)
    dialogues = sorted({turn.dialog_id or turn.id for turn in turns})
    count = max(1, round(share * len(dialogues)))
    kept = set(random.Random("share").sample(dialogues, count))
    return [turn for turn in turns if (turn.dialog_id or turn.id) in kept]
