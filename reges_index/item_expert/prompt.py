"""The prompt of section 2.4, which LLM_G is trained with and asked with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate

from reges_index.catalog.item import Item
from reges_index.dialogue.measure import TextMeasure
from reges_index.dialogue.render import HISTORY_FORMAT, RenderedHistory, render_history
from reges_index.dialogue.text import one_line
from reges_index.dialogue.wording import MOVIES, Domain, template_hash
from reges_index.errors import ConfigError, InputError

_ASKED = (
    "A list of candidate {item_plural} and their abstracts are provided. According to the conversation "
    "history between seeker and recommender, select the top {item_noun} recommendation for the seeker from "
    "the candidate list. "
)
_GIVEN = (
    "\n\nA list of candidate abstracts: {candidates}\n"
    "\n"
    "The corresponding conversation history: {conversation_history}"
)
_NO_MORE = " Do not generate explanation or anything else."

# Word for word the paper's "Prompt for LLM_G Contrastive Fine-Tuning/Inference" (section 3.3) when the
# domain is movies.
DEFAULT_SELECT_TMPL = PromptTemplate(_ASKED + "Only output one {item_noun} name." + _NO_MORE + _GIVEN)

# The same with one sentence changed: the numbers of the best candidates in place of one name.
DEFAULT_RANK_TMPL = PromptTemplate(
    f"{_ASKED}Only output the numbers of the {{count}} best {{item_plural}}, the top recommendation first, "
    f"separated by commas.{_NO_MORE}{_GIVEN}"
)
# Behind a selection prompt of the user's own, where there is no ranking prompt of his own.
_RANK_INSTEAD = (
    "\n\nInstead of a name, output the numbers of the {count} best {item_plural}, the best one first, "
    "separated by commas, and nothing else."
)

# Section 3.7.2: preferences first, then the item, with the instruction "think step by step".
COT_SELECT_TMPL = PromptTemplate(
    f"{_ASKED}Think step by step: first summarize the seeker's preferences, then output one {{item_noun}} "
    f"name on a line of its own.{_GIVEN}"
)

# Part of every item-expert prompt hash: change it whenever labels or lines below change.
CANDIDATE_FORMAT = "candidates-v1"

# Less of a dialogue says nothing: names that leave it no more than this are too many.
_LEAST_HISTORY = 16

# Training shows the reasoning as a part of the answer; an API takes it as a part of the question only.
_REASONED = (
    "The seeker's preferences, summarized step by step already: {reasoning}\n\n"
    "Now only output the name that fits them best."
)


@dataclass(frozen=True)
class RenderedCandidates:
    """The candidate list of a prompt.

    Attributes
    ----------
    text
        One line a candidate: label, then details.
    labels
        What the model has to say to choose a candidate, in the order of the candidates.
    tokens
        Tokens of ``text`` (summed over its lines).
    shortened
        How many candidates lost a part of their details.
    detail_tokens
        Most tokens that a candidate's details were allowed; None when nothing was cut.
    cut_by
        Which budget cut them: "details" for the one of a single candidate, "total" for that of the whole
        prompt; None when nothing was cut.
    """

    text: str
    labels: tuple[str, ...]
    tokens: int
    shortened: int
    detail_tokens: int | None
    cut_by: Literal["details", "total"] | None = None


@dataclass(frozen=True)
class PromptBudget:
    """How many tokens each part of the selection prompt may take.

    Attributes
    ----------
    total
        Dialogue and candidates together. 4,096 is the paper's input limit (section 3.3); the caller
        lowers it to what the model's context leaves.
    history
        Most for the dialogue, cut from its oldest end.
    details
        Most for one candidate's details; None leaves it to the total.
    """

    total: int = 4096
    history: int = 1024
    details: int | None = None


@dataclass(frozen=True)
class SelectionPrompt:
    """A prompt for LLM_G, the labels it may answer with, and what was cut to make it fit.

    Attributes
    ----------
    messages
        What the model is sent.
    labels
        The names of the candidates, in their order.
    history, candidates
        The two parts of the text, with what was cut of them.
    tokens
        Tokens of the text, by the measure it was built with; the chat template's come on top.
    answer_start
        What the model has written of its answer before it names an item; empty without reasoning.
    """

    messages: tuple[ChatMessage, ...]
    labels: tuple[str, ...]
    history: RenderedHistory
    candidates: RenderedCandidates
    tokens: int
    answer_start: str = ""

    def after(self, reasoning: str, *, spoken: bool) -> SelectionPrompt:
        """Return the prompt at the point where the reasoning is written and the item is not.

        Parameters
        ----------
        reasoning
            On one line; an empty one changes nothing.
        spoken
            Put it into the message, for a model whose answer cannot be begun for it (one behind an API).
            Else it becomes ``answer_start``, with the line break that training puts behind it.
        """
        if not reasoning:
            return self
        if not spoken:
            return replace(self, answer_start=f"{reasoning}\n")
        text = f"{self.messages[-1].content}\n\n{_REASONED.format(reasoning=reasoning)}"
        return replace(self, messages=(*self.messages[:-1], ChatMessage(role=MessageRole.USER, content=text)))


def as_select_template(prompt: BasePromptTemplate | str, called: str = "select_prompt") -> PromptTemplate:
    """Return a selection or ranking prompt as a template.

    Raises
    ------
    ConfigError
        If it lacks the slot ``{candidates}`` or ``{conversation_history}``.
    """
    template = PromptTemplate(prompt) if isinstance(prompt, str) else prompt
    slots = ("{candidates}", "{conversation_history}")
    if not isinstance(template, PromptTemplate) or not all(s in template.template for s in slots):
        raise ConfigError(
            f"{called} needs the slots {{candidates}} and {{conversation_history}}",
            hint="see DEFAULT_SELECT_TMPL and DEFAULT_RANK_TMPL",
        )
    return template


def rank_template_after(select: PromptTemplate) -> PromptTemplate:
    """Return the ranking prompt that goes with a selection prompt, where there is none of the user's own."""
    if select.template == DEFAULT_SELECT_TMPL.template:
        return DEFAULT_RANK_TMPL
    return PromptTemplate(select.template + _RANK_INSTEAD)


def build_selection_prompt(
    dialogue: Sequence[ChatMessage],
    items: Sequence[Item],
    *,
    measure: TextMeasure,
    budget: PromptBudget = PromptBudget(),
    template: PromptTemplate = DEFAULT_SELECT_TMPL,
    domain: Domain = MOVIES,
    count: int | None = None,
) -> SelectionPrompt:
    """Build LLM_G's prompt over all candidates; training and inference both call this.

    No candidate is ever dropped and the dialogue's end always stays. When the whole does not fit, the
    candidates' details are shortened evenly (`render_candidates`), and what is beside the names of all of
    them is the most that the dialogue gets.

    Raises
    ------
    InputError
        If even the bare names of the candidates do not fit beside the dialogue's end.
    """
    words: dict[str, Any] = {"item_noun": domain.noun, "item_plural": domain.plural, "count": str(count or 1)}
    around = measure.count(template.format(candidates="", conversation_history="", **words))
    room = budget.total - around
    if room <= 0:
        raise InputError(
            f"the prompt's own words do not fit into {budget.total} tokens",
            hint="raise max_input_tokens, or use a model with a larger context",
        )
    beside_names = max(_LEAST_HISTORY, room - _label_tokens(items, measure, count is not None))
    history = render_history(dialogue, budget=min(budget.history, room, beside_names), measure=measure)
    candidates = render_candidates(
        items,
        measure=measure,
        budget=room - history.tokens,
        max_detail_tokens=budget.details,
        numbered=count is not None,
    )
    text = template.format(
        candidates="\n" + candidates.text,
        conversation_history="\n" + history.text,
        **words,
    )
    message = ChatMessage(role=MessageRole.USER, content=text)
    tokens = around + history.tokens + candidates.tokens
    return SelectionPrompt((message,), candidates.labels, history, candidates, tokens)


def selection_prompt_hash(template: PromptTemplate = DEFAULT_SELECT_TMPL) -> str:
    """Return the hash that an item-expert adapter's manifest keeps."""
    return template_hash("item-expert", template.template, HISTORY_FORMAT, CANDIDATE_FORMAT)


def candidate_labels(items: Sequence[Item]) -> tuple[str, ...]:
    """Return the name of each candidate within this list.

    The title alone (the paper's "only output one movie name"), with the year behind it where two
    candidates share a title. Two items with equal title **and** year share a label: nothing that a
    reader of the prompt sees by name tells them apart. A title of control characters only, which would
    leave the model nothing to say, gives way to the id.
    """
    titles = [one_line(item.title) or one_line(item.id) or "untitled" for item in items]
    seen = Counter(title.casefold() for title in titles)
    return tuple(
        f"{title} ({item.year})" if seen[title.casefold()] > 1 and item.year is not None else title
        for title, item in zip(titles, items, strict=True)
    )


def _label_lines(items: Sequence[Item], numbered: bool) -> list[str]:
    labels = candidate_labels(items)
    return [f"{number}. {label}" for number, label in enumerate(labels, 1)] if numbered else list(labels)


def _label_tokens(items: Sequence[Item], measure: TextMeasure, numbered: bool) -> int:
    """Return how many tokens a list of these candidates takes at least: their labels, a line each."""
    return sum(measure.count(line + "\n") for line in _label_lines(items, numbered))


def _details(item: Item, label: str) -> str:
    # Facts first, abstract last: under a small budget the facts are what is left.
    year = f" ({item.year})" if item.year is not None and not label.endswith(f"({item.year})") else ""
    facts = [", ".join(item.genres[:4])]
    if item.creators:
        facts.append(f"by {', '.join(item.creators[:2])}")
    if item.cast:
        facts.append(f"with {', '.join(item.cast[:3])}")
    text = "; ".join(one_line(fact) for fact in facts if fact)
    body = " ".join(part for part in (text + "." if text else "", one_line(item.abstract)) if part)
    return f"{year}: {body}" if body else year


def render_candidates(
    items: Sequence[Item],
    *,
    measure: TextMeasure,
    budget: int | None = None,
    max_detail_tokens: int | None = None,
    numbered: bool = False,
) -> RenderedCandidates:
    """Render the candidates, their details cut evenly when they do not fit.

    Labels are never cut. Details shorter than the even share keep their whole length and leave the rest
    to the longer ones.

    Parameters
    ----------
    items
        In the order in which the model shall see them.
    budget
        Most tokens of the whole list; None for no limit.
    max_detail_tokens
        Most tokens of one candidate's details, whatever the budget leaves.
    numbered
        Put the candidate's number, from 1, before its label.

    Raises
    ------
    InputError
        If the labels alone are over the budget.
    """
    labels = candidate_labels(items)
    details = [_details(item, label) for item, label in zip(items, labels, strict=True)]
    least = _label_tokens(items, measure, numbered)
    sizes = [measure.count(text) for text in details]
    cap = max_detail_tokens
    if budget is not None:
        room = budget - least
        if room < 0:
            raise InputError(
                f"{len(items)} candidates do not fit: their names need {least} tokens, and {budget} are left",
                hint="lower similarity_top_k, raise max_input_tokens, or use a model with a larger context",
            )
        if sum(min(size, cap) if cap is not None else size for size in sizes) > room:
            cap = _even_share(sizes, room)
    shortened = 0
    lines: list[str] = []
    tokens = least
    for label, text, size in zip(_label_lines(items, numbered), details, sizes, strict=True):
        if cap is not None and size > cap:
            text, size = measure.head(text, cap).rstrip(), cap
            shortened += 1
        lines.append(label + text)
        tokens += size
    if not shortened:
        return RenderedCandidates("\n".join(lines), labels, tokens, 0, None)
    cut_by: Literal["details", "total"] = "details" if cap == max_detail_tokens else "total"
    return RenderedCandidates("\n".join(lines), labels, tokens, shortened, cap, cut_by)


def _even_share(sizes: Sequence[int], room: int) -> int:
    """Return the largest cap c with sum(min(size, c)) <= room."""
    left, remaining = room, len(sizes)
    for size in sorted(sizes):
        if size * remaining > left:
            return left // remaining
        left -= size
        remaining -= 1
    return max(sizes, default=0)
