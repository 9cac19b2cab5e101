"""Which candidates LLM_G sees in training: S = {y, c1..ck} (section 2.4)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from reges_index.catalog.item import Item
from reges_index.dialogue.messages import Turn
from reges_index.errors import ConfigError, InputError
from reges_index.training.config import ExpertTraining

__all__ = ["CandidateList", "ListMaker"]


# More would leave nothing to tell them from.
_MOST_FITTING = 3


@dataclass(frozen=True)
class CandidateList:
    """A list and what it is to teach.

    Attributes
    ----------
    items
        The true items and the wrong ones, shuffled or in the retriever's order.
    truths
        Turn and the id of its true item, one pair for each example. No other target of that turn is in
        ``items``, and nothing that has title and year of one.
    wanted
        How many wrong candidates there should be; fewer are there when the negatives ran out.
    fitting
        Ids of other items of the list that fit the turn too, best first.
    """

    items: tuple[Item, ...]
    truths: tuple[tuple[Turn, str], ...]
    wanted: int
    fitting: tuple[str, ...] = ()


def _key(item: Item) -> tuple[str, int | None]:
    return item.title.casefold(), item.year


class ListMaker:
    """Makes candidate lists; the same for the same seed, epoch and turn.

    Parameters
    ----------
    items
        The catalog by id.
    retrieved
        Turn id -> ids of retrieved items, the nearest first; targets of the turn may be among them. Not
        looked at when negatives are random.
    fitting
        Turn id -> ids of items that fit, best first, from a teacher or from the turn's ``suitable``; up to
        three of them are in the turn's list.

    Raises
    ------
    ConfigError
        If k is not smaller than the catalog.
    """

    def __init__(
        self,
        items: Mapping[str, Item],
        retrieved: Mapping[str, Sequence[str]],
        settings: ExpertTraining,
        fitting: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.items = items
        self.retrieved = retrieved
        self.fitting = fitting or {}
        self.named = settings.named_negatives
        self.k = settings.num_candidates
        self.least = settings.num_candidates_from
        self.kind = settings.negatives
        self.hard_from = settings.hard_from
        self.missed_share = settings.missed_share
        self.in_order = settings.candidate_order == "retrieved"
        self.seed = settings.seed
        self._ids = sorted(items)
        if self.k >= len(items):
            raise ConfigError(
                f"num_candidates={self.k} wrong items beside the true one, but the catalog has {len(items)}",
                hint=f"choose at most {len(items) - 1}",
            )

    def targets(self, turn: Turn) -> list[str]:
        """Return the turn's targets, each once, that a list can be made for."""
        known = [target for target in dict.fromkeys(turn.targets) if target in self.items]
        found = self.retrieved.get(turn.id, ())
        return [target for target in known if target in found or self._asked_all_the_same(turn, target)]

    def _asked_all_the_same(self, turn: Turn, target: str) -> bool:
        """Draw whether a target that was not retrieved takes part, by the seed and for all epochs."""
        return random.Random(f"{self.seed}/missed/{turn.id}/{target}").random() < self.missed_share

    def of_turn(self, turn: Turn, target: str, epoch: int) -> CandidateList:
        """Make the list of one turn and one of its targets, which is in the catalog."""
        found = self.retrieved.get(turn.id, ())
        rng = random.Random(f"{self.seed}/{epoch}/{turn.id}/{target}")
        forbidden = self._names_of(turn.targets)
        wanted = self._draw_k(rng)
        fits = self._allowed(self.fitting.get(turn.id, ()), forbidden)[: min(_MOST_FITTING, wanted)]
        named = self._allowed(turn.mentioned[::-1] if turn.mentioned else (), forbidden)
        named = [item for item in named if item not in fits][: min(self.named, wanted - len(fits))]
        # Fitting ones that were drawn as wrong ones beside these would be taught to be wrong.
        others = {_key(self.items[i]) for i in self.fitting.get(turn.id, ()) if i in self.items}
        known = forbidden | others | {_key(item) for item in named}
        wrong = [*fits, *named]
        wrong += self._wrong([found], known, rng, wanted - len(wrong), turn.id)
        fitting = tuple(item.id for item in fits)
        if not self.in_order:
            made = self._shuffled([self.items[target], *wrong], [(turn, target)], wanted, rng)
            return replace(made, fitting=fitting)
        found = [*found, *(item.id for item in wrong if item.id not in found)]
        rank = {item_id: place for place, item_id in enumerate(found)}
        listed = sorted(wrong, key=lambda item: rank[item.id])
        nearer = sum(rank[item.id] < rank[target] for item in listed) if target in rank else None
        listed.insert(rng.randint(0, len(listed)) if nearer is None else nearer, self.items[target])
        return CandidateList(tuple(listed), ((turn, target),), wanted, fitting)

    def _allowed(self, ids: Sequence[str], forbidden: set[tuple[str, int | None]]) -> list[Item]:
        known = [self.items[item_id] for item_id in dict.fromkeys(ids) if item_id in self.items]
        return [item for item in known if _key(item) not in forbidden]

    def of_dialogue(self, turns: Sequence[Turn], epoch: int) -> tuple[CandidateList, list[Turn]]:
        """Make one list for all turns of a dialogue, each with one true item in it.

        Of several targets one is drawn for each epoch. True items of the other turns count as wrong ones.
        The hard negatives of the turns take part in turns, so each turn finds its own in the list.

        Returns
        -------
        CandidateList, list of Turn
            The list, and the turns that it cannot teach: two of their targets would be in it.
        """
        rng = random.Random(f"{self.seed}/{epoch}/{turns[0].dialog_id or turns[0].id}")
        truths: list[tuple[Turn, str]] = []
        chosen: dict[str, None] = {}
        for turn in turns:
            known = self.targets(turn)
            already = [target for target in known if target in chosen]
            target = already[0] if already else rng.choice(known)
            chosen[target] = None
            truths.append((turn, target))
        clashes = [turn for turn, target in truths if self._clashes(turn, target, chosen)]
        truths = [(turn, target) for turn, target in truths if turn not in clashes]
        kept = list(dict.fromkeys(target for _, target in truths))
        forbidden = self._names_of([target for turn, _ in truths for target in turn.targets])
        queues = [self.retrieved.get(turn.id, ()) for turn, _ in truths]
        wanted = max(0, self._draw_k(rng) + 1 - len(kept))
        wrong = self._wrong(queues, forbidden, rng, wanted, turns[0].dialog_id)
        made = self._shuffled([*(self.items[target] for target in kept), *wrong], truths, wanted, rng)
        return made, clashes

    def _draw_k(self, rng: random.Random) -> int:
        return self.k if self.least is None else rng.randint(self.least, self.k)

    def _clashes(self, turn: Turn, target: str, chosen: Mapping[str, None]) -> bool:
        others = [other for other in chosen if other != target]
        names = self._names_of(turn.targets)
        return any(other in turn.targets or _key(self.items[other]) in names for other in others)

    def _names_of(self, ids: Sequence[str]) -> set[tuple[str, int | None]]:
        return {_key(self.items[name]) for name in ids if name in self.items}

    def _wrong(
        self,
        queues: Sequence[Sequence[str]],
        forbidden: set[tuple[str, int | None]],
        rng: random.Random,
        wanted: int,
        where: str,
    ) -> list[Item]:
        """Draw wrong items: hard ones from the queues in turns, random ones by chance, none twice."""
        from_queues = {"hard": wanted, "mixed": (wanted + 1) // 2, "random": 0}[self.kind]
        wrong: dict[str, Item] = {}
        if self.hard_from is not None:
            queues = [self._drawn(queue, forbidden, rng) for queue in queues]
        for name in _in_turns(queues):
            if len(wrong) >= from_queues:
                break
            if name not in self.items:
                raise InputError(
                    f"turn {where}: negative {name!r} is not in the catalog",
                    hint="make the negatives with the catalog that you train with",
                )
            if _key(self.items[name]) not in forbidden:
                wrong.setdefault(name, self.items[name])
        if self.kind != "hard":
            for name in rng.sample(self._ids, min(len(self._ids), wanted + len(wrong) + len(forbidden) + 8)):
                if len(wrong) >= wanted:
                    break
                if _key(self.items[name]) not in forbidden:
                    wrong.setdefault(name, self.items[name])
        return list(wrong.values())

    def _drawn(
        self, queue: Sequence[str], forbidden: set[tuple[str, int | None]], rng: random.Random
    ) -> list[str]:
        """Return the nearest ``hard_from`` wrong items in random order, an unknown one among them too."""
        wrong = [i for i in queue if i not in self.items or _key(self.items[i]) not in forbidden]
        nearest = wrong[: self.hard_from]
        return rng.sample(nearest, len(nearest))

    @staticmethod
    def _shuffled(
        items: list[Item], truths: Sequence[tuple[Turn, str]], wanted: int, rng: random.Random
    ) -> CandidateList:
        rng.shuffle(items)
        return CandidateList(tuple(items), tuple(truths), wanted)


def _in_turns(queues: Sequence[Sequence[str]]) -> list[str]:
    longest = max(map(len, queues), default=0)
    return [queue[place] for place in range(longest) for queue in queues if place < len(queue)]
