"""LLM_G's training examples (section 2.4): prompts from the very function that inference uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from llama_index.core.prompts import PromptTemplate

from reges_index.catalog.item import Item
from reges_index.dialogue.measure import HFMeasure
from reges_index.dialogue.messages import Turn
from reges_index.dialogue.wording import MOVIES, Domain
from reges_index.errors import InputError
from reges_index.item_expert.prompt import (
    COT_SELECT_TMPL,
    DEFAULT_SELECT_TMPL,
    PromptBudget,
    build_selection_prompt,
    candidate_labels,
)
from reges_index.training.candidate_lists import CandidateList, ListMaker
from reges_index.training.config import ExpertTraining
from reges_index.training.data import DataReport, Example

if TYPE_CHECKING:
    from reges_index.models.local_lm import LocalLM

__all__ = ["selection_examples"]


def selection_examples(
    turns: Sequence[Turn],
    items: Mapping[str, Item],
    negatives: Mapping[str, Sequence[str]],
    lm: LocalLM,
    settings: ExpertTraining,
    *,
    reasoning: Mapping[str, str] | None = None,
    fitting: Mapping[str, Sequence[str]] | None = None,
    epoch: int = 0,
    domain: Domain | Mapping[str, Domain] = MOVIES,
) -> tuple[list[Example], DataReport]:
    """Make LLM_G's examples: candidates and dialogue -> name of the true item.

    A turn with several targets gives one example for each, with the turn's other targets kept out of the
    list (``candidates_of="dialogue"``: one example, its target drawn anew each epoch). Lists are shuffled,
    or in the retriever's order with ``candidate_order="retrieved"``.
    The true item is never cut away: candidates that do not fit lose details, not names.

    Parameters
    ----------
    items
        The catalog by id.
    negatives
        Turn id -> item ids, the hardest first; the first ``settings.num_candidates`` that can be used
        count, or as many drawn among the first ``settings.hard_from``. The turn's own targets may be among
        them, at their rank (`read_retrieved`). May be empty when ``settings.negatives`` is "random".
    reasoning
        Turn id -> the seeker's preferences in words: the chain-of-thought variant (section 3.7.2), whose
        answer is these and, on the next line, the item.
    fitting
        Turn id -> items that fit, best first: a teacher's ranking, or ``suitable`` of the turn. Up to three
        are in the list and share ``1 - settings.target_share`` of the loss. A turn without targets has the
        first of them as its target, so that dialogues nobody has labelled teach LLM_G as well.
    epoch
        Changes lists and their order.
    domain
        What an item is called, or a mapping from the turn's id to it.

    Raises
    ------
    ConfigError
        If k is not smaller than the catalog.
    InputError
        If no example is left, a negative is not in the catalog, or the bare names do not fit into
        ``settings.max_tokens``.
    """
    report = DataReport(turns=len(turns))
    for stray in negatives.keys() - {turn.id for turn in turns}:
        report.leave_out("negatives_of_unknown_turn", stray)
    fitting = fitting or {}
    turns = [turn if turn.targets else _labelled(turn, fitting.get(turn.id, ()), items) for turn in turns]
    maker = ListMaker(items, negatives, settings, fitting)
    usable = list(_usable(turns, maker, reasoning, settings, report))
    writer = _Writer(lm, settings, domain, reasoning, report)
    examples: list[Example] = []
    for candidates in _lists(usable, maker, settings, epoch, report):
        examples += writer.examples(candidates)
    report.examples = len(examples)
    if not examples:
        raise InputError(
            f"no example could be made of {len(turns)} turns: {report.counts}",
            hint="check that targets, catalog and negatives are of the same data set",
        )
    return examples, report


def _labelled(turn: Turn, fitting: Sequence[str], items: Mapping[str, Item]) -> Turn:
    first = next((item_id for item_id in fitting if item_id in items), None)
    return turn if first is None else turn.model_copy(update={"targets": (first,)})


def _usable(
    turns: Sequence[Turn],
    maker: ListMaker,
    reasoning: Mapping[str, str] | None,
    settings: ExpertTraining,
    report: DataReport,
) -> Iterator[Turn]:
    needs_own = settings.negatives != "random" and settings.candidates_of == "turn"
    for turn in turns:
        possible = maker.targets(turn)
        for target in turn.targets:
            if target not in maker.items:
                report.leave_out("target_not_in_catalog", f"{turn.id} {target}")
            elif target not in possible:
                report.leave_out("target_not_retrieved", f"{turn.id} {target}")
        if not turn.targets:
            report.leave_out("no_target", turn.id)
        elif needs_own and turn.id not in maker.retrieved:
            report.leave_out("no_negatives", turn.id)
        elif reasoning is not None and not reasoning.get(turn.id, "").strip():
            report.leave_out("no_reasoning", turn.id)
        elif possible:
            yield turn


def _lists(
    turns: Sequence[Turn], maker: ListMaker, settings: ExpertTraining, epoch: int, report: DataReport
) -> Iterator[CandidateList]:
    if settings.candidates_of == "turn":
        for turn in turns:
            for target in maker.targets(turn):
                yield maker.of_turn(turn, target, epoch)
        return
    dialogues: dict[str, list[Turn]] = {}
    for turn in turns:
        dialogues.setdefault(turn.dialog_id or turn.id, []).append(turn)
    for own in dialogues.values():
        if settings.negatives != "random" and not any(turn.id in maker.retrieved for turn in own):
            for turn in own:
                report.leave_out("no_negatives", turn.id)
            continue
        candidates, clashes = maker.of_dialogue(own, epoch)
        for turn in clashes:
            report.leave_out("several_targets_in_the_shared_list", turn.id)
        yield candidates


class _Writer:
    """Turns lists into token ids."""

    def __init__(
        self,
        lm: LocalLM,
        settings: ExpertTraining,
        domain: Domain | Mapping[str, Domain],
        reasoning: Mapping[str, str] | None,
        report: DataReport,
    ) -> None:
        self._lm = lm
        self._settings = settings
        self._domain = domain
        self._reasoning = reasoning
        self._report = report
        self._template: PromptTemplate = DEFAULT_SELECT_TMPL if reasoning is None else COT_SELECT_TMPL
        self._measure = HFMeasure(lm.tokenizer)
        empty = build_selection_prompt((), (), measure=self._measure, template=self._template)
        # What the chat template takes beside the prompt's own text.
        text = empty.messages[0].content or ""
        self._around = len(lm.encode_chat(empty.messages)) - self._measure.count(text)

    def examples(self, candidates: CandidateList) -> list[Example]:
        if len(candidates.items) - len({target for _, target in candidates.truths}) < candidates.wanted:
            self._report.leave_out("fewer_negatives_than_k", " ".join(t.id for t, _ in candidates.truths))
        examples = []
        share = self._settings.target_share if candidates.fitting else 1.0
        worth = [1 / (1.5 + rank) for rank in range(len(candidates.fitting))]
        for turn, target in candidates.truths:
            first = self._example(candidates, turn, target)
            examples.append(replace(first, weight=share))
            if share < 1:
                examples += [
                    replace(
                        self._answered(first, candidates, turn, other), weight=(1 - share) * part / sum(worth)
                    )
                    for other, part in zip(candidates.fitting, worth, strict=True)
                ]
        return examples

    def _answered(self, example: Example, candidates: CandidateList, turn: Turn, target: str) -> Example:
        """Return the example with another answer to its prompt."""
        label = candidate_labels(candidates.items)[_place(candidates, target)]
        reasoning = "" if self._reasoning is None else self._reasoning[turn.id].strip()
        answer = self._lm.encode_answer(f"{reasoning}\n{label}" if reasoning else label)
        return replace(example, id=f"{turn.id} {target}", answer_ids=tuple(answer))

    def _example(self, candidates: CandidateList, turn: Turn, target: str) -> Example:
        place = _place(candidates, target)
        reasoning = "" if self._reasoning is None else self._reasoning[turn.id].strip()
        longest = max(len(self._lm.encode_answer(_longest_label(item))) for item in candidates.items)
        answer_room = longest + len(self._lm.encode_answer(reasoning))
        settings = self._settings
        total = max(1, settings.max_tokens - self._around - answer_room)
        history = min(settings.max_history_tokens or total, total)
        self._report.allow("max_input_tokens", total)
        self._report.allow("max_history_tokens", history)
        prompt = build_selection_prompt(
            turn.chat,
            candidates.items,
            measure=self._measure,
            budget=PromptBudget(total=total, history=history, details=settings.max_candidate_tokens),
            template=self._template,
            domain=self._domain[turn.id] if isinstance(self._domain, Mapping) else self._domain,
        )
        self._report.shortened_histories += bool(prompt.history.dropped or prompt.history.shortened)
        self._report.shortened_candidates += bool(prompt.candidates.shortened)
        label = prompt.labels[place]
        return Example(
            f"{turn.id} {target}",
            tuple(self._lm.encode_chat(prompt.messages)),
            tuple(self._lm.encode_answer(f"{reasoning}\n{label}" if reasoning else label)),
            turn.dialog_id,
        )


def _place(candidates: CandidateList, target: str) -> int:
    return next(place for place, item in enumerate(candidates.items) if item.id == target)


def _longest_label(item: Item) -> str:
    return item.title if item.year is None else f"{item.title} ({item.year})"
