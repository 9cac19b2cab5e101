"""What an encoder is trained on: dialogues and short queries, soft targets among a catalog's items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from reges_index.catalog import Item
from reges_index.dialogue import Turn, one_line
from reges_index.dialogue.titles import TitleIndex
from reges_index.errors import TrainingError
from reges_index.files import load_yaml
from reges_index.fusion.statistics import place_weights
from reges_index.training.config import Place
from reges_index.training.data import DataSet, ModelName, domain_sets, read_data


class EncoderTraining(BaseModel):
    """Settings of an encoder's training (finetune/FUSION.md tells what was tried).

    Attributes
    ----------
    passes, batch_size
        Passes over the turns, and turns of a step. Each turn comes as its dialogue and, where it has one, as
        its pseudo-query.
    learning_rate, warm_up, weight_decay
        Of AdamW; the rate rises over this share of the steps and then falls to 0 along a cosine.
    rank
        Of the low-rank change of each linear layer; 0 trains the layers whole.
    scale
        Cosines times this are the logits of the softmax.
    frozen_items
        Whether items stay where the base encoder puts them, so that only the queries' side is trained and an
        index made by the base encoder can be used as it is.
    query_tokens, item_tokens, long_share
        Longest texts. This share of the items is read to the encoder's own limit of 256 tokens instead.
    target_share, teacher_share
        Share of the true targets where a turn lists other suitable items, and of the teacher's ranking where
        there is one; the rest of the mass goes to the other side.
    teacher_sample, random_items
        In catalogs of more than `whole_catalog` items, how many of a teacher's list are encoded for a turn,
        and how many random items for a step.
    spliced, last_only, oldest_first
        Shares of dialogues that come behind another one's last messages (a change of topic), as their last
        message alone, and in the order of time (as stock retrievers get them).
    lookups
        Plain retrieval beside the turns, in shares of the batch: title, people or genres as the query.
    lossy_items
        Share of the items that are read without some of their fields.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    passes: float = Field(default=3, gt=0)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    warm_up: float = Field(default=0.05, ge=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0)
    rank: int = Field(default=64, ge=0)
    scale: float = Field(default=20.0, gt=0)
    frozen_items: bool = False
    query_tokens: int = Field(default=128, ge=8, le=256)
    item_tokens: int = Field(default=72, ge=8, le=256)
    long_share: float = Field(default=0.1, ge=0, le=1)
    target_share: float = Field(default=0.75, ge=0, le=1)
    teacher_share: float = Field(default=0.7, ge=0, le=1)
    whole_catalog: int = Field(default=200, ge=0)
    teacher_sample: int = Field(default=2, ge=0)
    random_items: int = Field(default=24, ge=0)
    spliced: float = Field(default=0.15, ge=0, le=1)
    last_only: float = Field(default=0.05, ge=0, le=1)
    oldest_first: float = Field(default=0.1, ge=0, le=1)
    lookups: float = Field(default=0.15, ge=0)
    lossy_items: float = Field(default=0.15, ge=0, le=1)
    seed: int = 0


class EncoderRecipe(BaseModel):
    """The YAML of finetune/recipes/encoder.yaml.

    Attributes
    ----------
    encoder
        The base, a local sentence-transformers model.
    out
        Folder of the run; the adapter is its ``adapter``.
    data
        Data sets, of each the turns, the catalog and what else there is; of a set with a ``share`` only that
        part of the turns comes in a pass, another one in the next.
    domains
        Folder in which every folder is a data set of ``catalog.jsonl`` and ``turns.jsonl``.
    kept_out
        Names of data sets that are left for fitting a fusion over this encoder.
    kept_out_share
        The last of the dialogues of each of ``data`` are left for it as well.
    watch
        Folder like ``domains``; how often the target comes first there is logged while training.
    max_tokens
        How much of a query the trained encoder reads in use, where time is no matter as in training.
    training
        Settings.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: ModelName = "minilm"
    max_tokens: int = Field(default=256, ge=8, le=256)
    out: Place
    data: tuple[DataSet, ...] = ()
    domains: Place | None = None
    kept_out: tuple[str, ...] = ()
    kept_out_share: float = Field(default=0.15, ge=0, lt=1)
    watch: Place | None = None
    training: EncoderTraining = EncoderTraining()

    def sets(self) -> list[TurnSet]:
        """Read all data sets that are trained on, without what is kept out."""
        found = [TurnSet.read(its).part(0.0, 1.0 - self.kept_out_share) for its in self.data]
        found += [its for its in read_domains(self.domains) if its.name not in self.kept_out]
        if not any(its.usable for its in found):
            raise TrainingError("no turn has a target in its catalog", hint="check the recipe's data sets")
        return found


def read_domains(folder: Path | None) -> list[TurnSet]:
    """Read each folder in ``folder`` as a data set, in the order of their names."""
    return [TurnSet.read(its) for its in domain_sets(folder)] if folder is not None else []


def read_encoder_recipe(path: str | Path) -> EncoderRecipe:
    """Read a recipe; its paths are relative to the file. Errors are those of `load_yaml`."""
    return load_yaml(path, EncoderRecipe, hint="see finetune/recipes/encoder.yaml")


@dataclass(frozen=True)
class LabelledTurn:
    """A turn with what is known of it, items as positions in the catalog.

    Attributes
    ----------
    targets, suitable, ranking, named
        True targets, what else an expert would accept, a teacher's ranking (both best first, empty without
        one), and items that the dialogue has named.
    query
        Its pseudo-query; empty without one.
    """

    turn: Turn
    targets: list[int]
    suitable: list[int]
    ranking: list[int]
    named: set[int]
    query: str = ""

    @property
    def lines(self) -> list[str]:
        """The messages, each on one line."""
        return [line for message in self.turn.chat if (line := one_line(message.content or ""))]


@dataclass(frozen=True)
class TurnSet:
    """The turns of one data set, read once.

    Attributes
    ----------
    name
        Of the data set.
    items
        N items of the catalog.
    turns
        T turns.
    share
        Part of the turns that comes in one pass.
    """

    name: str
    items: Sequence[Item]
    turns: Sequence[LabelledTurn]
    share: float = 1.0

    @classmethod
    def read(cls, its: DataSet) -> TurnSet:
        """Read a data set; ids that are not in the catalog are left out."""
        data = read_data(its.model_copy(update={"share": 1.0}))
        items = list(data.items.values())
        place = {item.id: number for number, item in enumerate(items)}
        titles = TitleIndex.of(items)

        def places(given: Iterable[str]) -> list[int]:
            return [place[i] for i in dict.fromkeys(given) if i in place]

        turns = [
            LabelledTurn(
                turn,
                places(turn.targets),
                places(data.suitable.get(turn.id, ())),
                places(data.rankings.get(turn.id, ())),
                titles.named(turn.chat) if turn.mentioned is None else set(places(turn.mentioned)),
                one_line(data.queries.get(turn.id, "")),
            )
            for turn in data.turns
        ]
        return cls(its.name, items, turns, its.share)

    @property
    def usable(self) -> list[int]:
        """Numbers of the turns that have a target or a ranking in the catalog."""
        return [n for n, its in enumerate(self.turns) if its.targets or its.ranking]

    def part(self, start: float, end: float) -> TurnSet:
        """Return the turns of this share of the dialogues, which stay whole, in the order of the file."""
        dialogues = [its.turn.dialog_id or its.turn.id for its in self.turns]
        order = {key: n for n, key in enumerate(dict.fromkeys(dialogues))}
        inside = [
            its
            for its, key in zip(self.turns, dialogues, strict=True)
            if start <= order[key] / max(1, len(order)) < end
        ]
        return replace(self, turns=inside)


@dataclass(frozen=True)
class Example:
    """One query of a step.

    Attributes
    ----------
    text
        What is embedded.
    mass
        Catalog positions with their share of the softmax; they sum to 1.
    hidden
        Positions that are left out of the softmax.
    """

    text: str
    mass: dict[int, float]
    hidden: frozenset[int]


@dataclass(frozen=True)
class Group:
    """What one step compares: queries and the items of one catalog.

    Attributes
    ----------
    items
        Catalog positions, each once.
    texts
        Their texts.
    long
        Which of them are read to the encoder's own limit.
    """

    source: TurnSet
    examples: Sequence[Example]
    items: Sequence[int]
    texts: Sequence[str]
    long: Sequence[bool]


class Sampler:
    """Makes the steps of a training; the same step has the same content in every run.

    Parameters
    ----------
    sets
        Data sets.
    settings
        Of the training.
    """

    def __init__(self, sets: Sequence[TurnSet], settings: EncoderTraining) -> None:
        self.sets, self.settings = sets, settings
        self._per_pass = len(self._plan(0))
        self.steps = max(1, round(self._per_pass * settings.passes))

    def _plan(self, number: int) -> list[tuple[int, list[int]]]:
        """Return the batches of a pass: which set, and rows of it."""
        rng = np.random.default_rng([self.settings.seed, 1, number])
        batches = []
        for which, its in enumerate(self.sets):
            usable = its.usable
            if its.share < 1:  # the next part of an order that stays
                size = max(1, round(its.share * len(usable)))
                order = np.random.default_rng([self.settings.seed, 3]).permutation(usable)
                usable = np.roll(order, -number * size)[:size].tolist()
            rows = rng.permutation(usable)
            if len(rows):
                parts = np.array_split(rows, -(-len(rows) // self.settings.batch_size))
                batches += [(which, part.tolist()) for part in parts]
        return [batches[n] for n in rng.permutation(len(batches))]

    def groups(self, start: int = 0) -> Iterator[Group]:
        """Yield the steps from the given one on."""
        plans: dict[int, list[tuple[int, list[int]]]] = {}
        for step in range(start, self.steps):
            turn, place = divmod(step, self._per_pass)
            if turn not in plans:
                plans = {turn: self._plan(turn)}
            which, rows = plans[turn][place]
            its = self.sets[which]
            rng = np.random.default_rng([self.settings.seed, 2, step])
            yield self._group(its, [its.turns[row] for row in rows], rng)

    def _group(self, its: TurnSet, turns: Sequence[LabelledTurn], rng: np.random.Generator) -> Group:
        settings = self.settings
        whole = len(its.items) <= settings.whole_catalog or settings.frozen_items
        inside: set[int] = set(range(len(its.items)))
        lookups = [self._lookup(its, rng) for _ in range(round(settings.lookups * len(turns)))]
        if not whole:
            inside = set(
                rng.choice(len(its.items), min(settings.random_items, len(its.items)), False).tolist()
            )
            for turn in turns:
                inside.update(turn.targets)
                inside.update(self._some(turn.ranking, rng))
            inside.update(next(iter(looked[1])) for looked in lookups)
        examples = []
        for turn in turns:
            mass = self._mass(turn, inside)
            hidden = frozenset(turn.named - set(turn.targets))
            examples.append(Example(self._dialogue(its, turn, rng), mass, hidden))
            if turn.query:
                examples.append(Example(turn.query, mass, hidden))
        for text, right in lookups:
            found = right & inside
            examples.append(Example(text, dict.fromkeys(found, 1 / len(found)), frozenset()))
        items = sorted(inside)
        texts = [self._item_text(its.items[n], rng) for n in items]
        return Group(its, examples, items, texts, (rng.random(len(items)) < settings.long_share).tolist())

    def _some(self, ranking: Sequence[int], rng: np.random.Generator) -> list[int]:
        """Draw some of a teacher's list, the first ones more often."""
        if len(ranking) <= self.settings.teacher_sample:
            return list(ranking)
        weights = place_weights(len(ranking))
        drawn = rng.choice(ranking, self.settings.teacher_sample, False, weights / weights.sum())
        return [int(n) for n in drawn]

    def _mass(self, turn: LabelledTurn, inside: set[int]) -> dict[int, float]:
        settings, true = self.settings, turn.targets
        # A teacher's list may hold a target, and is cut to what this step encodes.
        barred = turn.named - set(true) if turn.ranking else turn.named | set(true)
        others = [
            (n, weight)
            for n, weight in _weighed(turn.ranking or turn.suitable)
            if n in inside and n not in barred
        ]
        if not true and not others:  # all that the teacher named was said already: nothing to learn
            return {}
        share = settings.teacher_share if turn.ranking else 1 - settings.target_share
        if not others or not true:
            share = float(not true)
        mass = dict.fromkeys(true, (1 - share) / max(1, len(true)))
        total = sum(weight for _, weight in others)
        for n, weight in others:
            mass[n] = mass.get(n, 0.0) + share * weight / total
        return mass

    def _dialogue(self, its: TurnSet, turn: LabelledTurn, rng: np.random.Generator) -> str:
        settings, lines = self.settings, turn.lines
        kind = rng.random()
        if kind < settings.last_only:
            return lines[-1] if lines else ""
        if kind < settings.last_only + settings.oldest_first:
            return "\n".join(lines)
        if kind < settings.last_only + settings.oldest_first + settings.spliced:
            other = its if rng.random() < 0.5 else self.sets[int(rng.integers(len(self.sets)))]
            lines = other.turns[int(rng.integers(len(other.turns)))].lines[-4:] + lines
        return "\n".join(reversed(lines))

    def _lookup(self, its: TurnSet, rng: np.random.Generator) -> tuple[str, set[int]]:
        """Return a query of an item's own fields, and all items that have the same."""
        item = its.items[int(rng.integers(len(its.items)))]
        people = [*item.creators, *item.cast]
        kind = rng.integers(4)
        if kind == 1 and people:
            name = str(rng.choice(people))
            return name, {n for n, i in enumerate(its.items) if name in i.creators or name in i.cast}
        if kind >= 2 and item.genres:
            genres = set(item.genres)
            one = str(rng.choice(people)) if people and kind == 3 else None
            return " ".join([*item.genres, *([one] if one else [])]), {
                n
                for n, i in enumerate(its.items)
                if genres <= set(i.genres) and (one is None or one in i.creators or one in i.cast)
            }
        title = item.title
        return title, {n for n, i in enumerate(its.items) if i.title == title}

    def _item_text(self, item: Item, rng: np.random.Generator) -> str:
        if rng.random() >= self.settings.lossy_items:
            return item.text()
        kept: dict[str, Any] = {
            name: value if rng.random() < 0.6 else type(value)()
            for name, value in (("genres", item.genres), ("makers", item.makers), ("cast", item.cast))
        }
        if rng.random() < 0.3:
            kept["abstract"] = ""
        return item.model_copy(update=kept).text()


def _weighed(ranking: Sequence[int]) -> list[tuple[int, float]]:
    return list(zip(ranking, place_weights(len(ranking)).tolist(), strict=True))
