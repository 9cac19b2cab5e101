"""LLM_QR's training examples: prompts from the very function that inference uses, answers as scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from reges_index.dialogue.measure import HFMeasure
from reges_index.dialogue.messages import Turn
from reges_index.dialogue.wording import MOVIES, Domain
from reges_index.errors import InputError
from reges_index.query_expert.prompt import build_query_prompt
from reges_index.training.config import ExpertTraining

if TYPE_CHECKING:
    from reges_index.models.local_lm import LocalLM

__all__ = ["DataReport", "Example", "query_examples"]


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


def query_examples(
    turns: Sequence[Turn],
    queries: Mapping[str, str],
    lm: LocalLM,
    settings: ExpertTraining,
    *,
    domain: Domain | Mapping[str, Domain] = MOVIES,
) -> tuple[list[Example], DataReport]:
    """Make LLM_QR's examples: dialogue -> pseudo-query (section 2.3).

    Parameters
    ----------
    turns
        Recommendation turns; their targets are not looked at.
    queries
        Turn id -> pseudo-query. Turns without one and queries without a turn are counted.
    lm
        For its tokenizer and chat template.
    domain
        What an item is called, or a mapping from the turn's id to it where turns are of several domains.

    Raises
    ------
    InputError
        If no query belongs to any of the turns, or a prompt is longer than ``settings.max_tokens`` although
        the dialogue was cut.
    """
    report = DataReport(turns=len(turns))
    known = {turn.id for turn in turns}
    for stray in queries.keys() - known:
        report.leave_out("pseudo_query_of_unknown_turn", stray)
    measure = HFMeasure(lm.tokenizer)
    domains = domain if isinstance(domain, Mapping) else {turn.id: domain for turn in turns}
    frames = {
        each: len(lm.encode_chat(build_query_prompt((), domain=each).messages))
        for each in set(domains.values())
    }
    examples: list[Example] = []
    for turn in turns:
        query = queries.get(turn.id)
        if query is None:
            report.leave_out("no_pseudo_query", turn.id)
            continue
        if not query.strip():
            report.leave_out("empty_pseudo_query", turn.id)
            continue
        answer = lm.encode_answer(query.strip())
        own = domains[turn.id]
        frame = frames[own]
        room = settings.max_tokens - frame - len(answer)
        if room <= 0:
            raise InputError(
                f"turn {turn.id}: prompt and answer need {frame + len(answer)} tokens without any dialogue",
                hint=f"raise max_tokens (it is {settings.max_tokens}) or shorten the pseudo-query",
            )
        history = min(settings.max_history_tokens or room, room)
        report.allow("max_history_tokens", history)
        prompt = build_query_prompt(
            turn.chat,
            domain=own,
            max_history_tokens=history,
            measure=measure,
        )
        report.shortened_histories += bool(prompt.history.dropped or prompt.history.shortened)
        ids = lm.encode_chat(prompt.messages)
        examples.append(Example(turn.id, tuple(ids), tuple(answer), turn.dialog_id))
    report.examples = len(examples)
    if not examples:
        raise InputError(
            f"none of {len(queries)} pseudo-queries belongs to any of {len(turns)} turns",
            hint="the file was made for other turns: compare the ids",
        )
    return examples, report
