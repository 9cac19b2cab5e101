"""Examples for both experts: prompts from the very functions that inference uses, answers as scored."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from reges_index.catalog.item import Item
from reges_index.dialogue.measure import HFMeasure
from reges_index.dialogue.messages import Turn
from reges_index.errors import ConfigError, InputError
from reges_index.fusion.statistics import place_weights
from reges_index.item_expert.prompt import (
    COT_SELECT_TMPL,
    DEFAULT_SELECT_TMPL,
    PromptBudget,
    build_selection_prompt,
)
from reges_index.query_expert.prompt import build_query_prompt
from reges_index.training.config import ExpertTraining
from reges_index.training.data import TrainingData

if TYPE_CHECKING:
    from reges_index.models.local_lm import LocalLM

# More would leave nothing to tell them from.
_MOST_FITTING = 3


@dataclass(frozen=True)
class Example:
    """One prompt and the answer to learn.

    Attributes
    ----------
    id
        Of the turn; the item expert adds the target's id.
    prompt_ids, answer_ids
        Token ids; the answer ends with the end token. The loss is on the answer only.
    group
        Examples of one group begin alike (the turns of a dialogue).
    weight
        Of the answer in the loss. The answers to one prompt that share a weight of 1 are a soft target.
    """

    id: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    group: str = ""
    weight: float = 1.0

    @property
    def length(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.prompt_ids) + len(self.answer_ids)


@dataclass
class DataReport:
    """What became of the turns; every turn that gave no example is counted under its reason.

    Attributes
    ----------
    turns, examples
        Turns given, examples made.
    reasons
        Reason -> ids of the turns (or "turn target" pairs) left out.
    shortened_histories, shortened_candidates
        Examples whose dialogue lost its beginning, or whose candidates lost a part of their details.
    budgets
        The largest token budgets that an example had, by the names that inference gives them. An adapter's
        manifest passes them on: a dialogue that fitted in training shall not be cut afterwards.
    """

    turns: int = 0
    examples: int = 0
    reasons: dict[str, list[str]] = field(default_factory=dict)
    shortened_histories: int = 0
    shortened_candidates: int = 0
    budgets: dict[str, int] = field(default_factory=dict)

    def allow(self, name: str, tokens: int) -> None:
        """Note a budget that an example had."""
        self.budgets[name] = max(tokens, self.budgets.get(name, 0))

    def leave_out(self, reason: str, name: str) -> None:
        """Count ``name`` under ``reason``."""
        self.reasons.setdefault(reason, []).append(name)

    @property
    def counts(self) -> dict[str, int]:
        """All counts, flat, for manifests and logs."""
        plain = {k: v for k, v in asdict(self).items() if isinstance(v, int)}
        return plain | {reason: len(names) for reason, names in self.reasons.items()}

    def require_some(self, examples: Sequence[Example]) -> None:
        """Raise `InputError` where no example was made."""
        self.examples = len(examples)
        if not examples:
            raise InputError(
                f"no example could be made of {self.turns} turns: {self.counts}",
                hint="check that all files belong to the same data set: compare the ids",
            )


def query_examples(
    sets: Sequence[TrainingData], lm: LocalLM, settings: ExpertTraining
) -> tuple[list[Example], DataReport]:
    """Make LLM_QR's examples: dialogue -> pseudo-query (section 2.3).

    Parameters
    ----------
    sets
        Turns and their queries; turns without one are counted.
    lm
        For its tokenizer and chat template.

    Raises
    ------
    InputError
        If no query belongs to any of the turns, or a prompt is longer than ``settings.max_tokens`` although
        the dialogue was cut.
    """
    report, examples = DataReport(), []
    measure = HFMeasure(lm.tokenizer)
    for data in sets:
        report.turns += len(data.turns)
        frame = len(lm.encode_chat(build_query_prompt((), domain=data.domain).messages))
        for turn in data.turns:
            query = data.queries.get(turn.id, "").strip()
            if not query:
                report.leave_out("no_pseudo_query", turn.id)
                continue
            answer = lm.encode_answer(query)
            room = settings.max_tokens - frame - len(answer)
            if room <= 0:
                raise InputError(
                    f"turn {turn.id}: without any dialogue the example has {frame + len(answer)} tokens",
                    hint=f"raise max_tokens (it is {settings.max_tokens}) or shorten the pseudo-query",
                )
            history = min(settings.max_history_tokens or room, room)
            report.allow("max_history_tokens", history)
            prompt = build_query_prompt(
                turn.chat, domain=data.domain, max_history_tokens=history, measure=measure
            )
            report.shortened_histories += bool(prompt.history.dropped or prompt.history.shortened)
            ids = lm.encode_chat(prompt.messages)
            examples.append(Example(turn.id, tuple(ids), tuple(answer), turn.dialog_id))
    report.require_some(examples)
    return examples, report


def selection_examples(
    sets: Sequence[TrainingData],
    lm: LocalLM,
    settings: ExpertTraining,
    *,
    cot: bool = False,
    epoch: int = 0,
) -> tuple[list[Example], DataReport]:
    """Make LLM_G's examples (section 2.4): candidates and dialogue -> name of the true item.

    A turn with several targets gives one list for each, with the turn's other targets kept out of it. With
    ``settings.target_share`` the others of a list that fit are answers to the same prompt. The true item is
    never cut away: candidates that do not fit lose details, not names.

    Parameters
    ----------
    sets
        Turns, their catalog, what fits, and what was retrieved (unless ``settings.negatives`` is "random").
    cot
        The chain-of-thought variant (section 3.7.2): the answer is the turn's reasoning and, on the next
        line, the item.
    epoch
        Changes lists and their order.

    Raises
    ------
    ConfigError
        If there are not more items in a catalog than wrong candidates in a list.
    InputError
        If no example is left, or the bare names do not fit into ``settings.max_tokens``.
    """
    report = DataReport()
    examples: list[Example] = []
    for data in sets:
        if settings.num_candidates >= len(data.items):
            raise ConfigError(
                f"num_candidates={settings.num_candidates} wrong items beside the true one, but the catalog "
                f"has {len(data.items)}",
                hint=f"choose at most {len(data.items) - 1}",
            )
        report.turns += len(data.turns)
        examples += _selections(data, lm, settings, cot, epoch, report)
    report.require_some(examples)
    return examples, report


def _pairs(
    data: TrainingData, settings: ExpertTraining, cot: bool, report: DataReport
) -> Iterator[tuple[Turn, str]]:
    """Yield the turns that a list can be made for, with each of their targets."""
    for turn in data.labelled:
        if not turn.targets:
            report.leave_out("no_target", turn.id)
        elif settings.negatives != "random" and turn.id not in data.retrieved:
            report.leave_out("no_negatives", turn.id)
        elif cot and not data.reasoning.get(turn.id, "").strip():
            report.leave_out("no_reasoning", turn.id)
        else:
            for target in dict.fromkeys(turn.targets):
                if target in data.items:
                    yield turn, target
                else:
                    report.leave_out("target_not_in_catalog", f"{turn.id} {target}")


def candidate_list(
    data: TrainingData, turn: Turn, target: str, settings: ExpertTraining, epoch: int = 0
) -> tuple[list[Item], list[Item]]:
    """Choose the candidates S = {y, c1..ck}; the same for the same seed, epoch and turn.

    Returns
    -------
    list of Item, list of Item
        The list, in which nothing has title and year of another target of the turn, and what of its wrong
        items fits too, best first. It is shorter where the wrong ones ran out.
    """
    items, k = data.items, settings.num_candidates
    found = data.retrieved.get(turn.id, ())
    rng = random.Random(f"{settings.seed}/{epoch}/{turn.id}/{target}")
    barred = {_key(items[name]) for name in turn.targets if name in items}

    def allowed(ids: Sequence[str]) -> list[Item]:
        known = (items[name] for name in dict.fromkeys(ids) if name in items)
        return [item for item in known if _key(item) not in barred]

    fitting = allowed(data.fitting.get(turn.id, ()))
    fits = fitting[: min(_MOST_FITTING, k)] if settings.target_share < 1 else []
    # Fitting ones that were drawn as wrong ones beside these would be taught to be wrong.
    barred |= {_key(item) for item in fitting}
    named = allowed(turn.mentioned[::-1] if turn.mentioned else ())
    wrong = [*fits, *named[: min(settings.named_negatives, k - len(fits))]]
    barred |= {_key(item) for item in wrong}
    rest = k - len(wrong)
    wrong += allowed(found)[: {"hard": rest, "mixed": (rest + 1) // 2, "random": 0}[settings.negatives]]
    if settings.negatives != "hard":
        barred |= {_key(item) for item in wrong}
        drawn = rng.sample(list(items), min(len(items), k + len(barred) + 8))
        wrong += allowed(drawn)[: k - len(wrong)]
    if settings.candidate_order == "shuffled":
        listed = [items[target], *wrong]
        rng.shuffle(listed)
        return listed, fits
    rank = {name: place for place, name in enumerate(found)}
    listed = sorted(wrong, key=lambda item: rank.get(item.id, len(rank)))
    nearer = sum(rank.get(item.id, len(rank)) < rank[target] for item in listed) if target in rank else None
    listed.insert(rng.randint(0, len(listed)) if nearer is None else nearer, items[target])
    return listed, fits


def _key(item: Item) -> tuple[str, int | None]:
    return item.title.casefold(), item.year


def _selections(
    data: TrainingData, lm: LocalLM, settings: ExpertTraining, cot: bool, epoch: int, report: DataReport
) -> Iterator[Example]:
    """Yield the examples of one data set: lists as token ids, with each answer that they have."""
    template = COT_SELECT_TMPL if cot else DEFAULT_SELECT_TMPL
    measure = HFMeasure(lm.tokenizer)
    empty = build_selection_prompt((), (), measure=measure, template=template)
    # What the chat template takes beside the prompt's own text.
    around = len(lm.encode_chat(empty.messages)) - measure.count(empty.messages[0].content or "")
    for turn, target in _pairs(data, settings, cot, report):
        listed, fits = candidate_list(data, turn, target, settings, epoch)
        if len(listed) <= settings.num_candidates:
            report.leave_out("fewer_negatives_than_k", turn.id)
        reasoning = f"{data.reasoning[turn.id].strip()}\n" if cot else ""
        longest = max(len(lm.encode_answer(f"{item.title} ({item.year})")) for item in listed)
        taken = around + longest + (len(lm.encode_answer(reasoning)) if reasoning else 0)
        total = max(1, settings.max_tokens - taken)
        history = min(settings.max_history_tokens or total, total)
        report.allow("max_input_tokens", total)
        report.allow("max_history_tokens", history)
        prompt = build_selection_prompt(
            turn.chat,
            listed,
            measure=measure,
            budget=PromptBudget(total=total, history=history, details=settings.max_candidate_tokens),
            template=template,
            domain=data.domain,
        )
        report.shortened_histories += bool(prompt.history.dropped or prompt.history.shortened)
        report.shortened_candidates += bool(prompt.candidates.shortened)
        prompt_ids = tuple(lm.encode_chat(prompt.messages))
        label = {item.id: label for item, label in zip(listed, prompt.labels, strict=True)}
        share = settings.target_share if fits else 1.0
        worth = place_weights(len(fits)).tolist()
        answers = {target: share}
        answers |= {item.id: (1 - share) * part / sum(worth) for item, part in zip(fits, worth, strict=True)}
        for name, weight in answers.items():
            answer = tuple(lm.encode_answer(f"{reasoning}{label[name]}"))
            yield Example(f"{turn.id} {name}", prompt_ids, answer, turn.dialog_id, weight)
