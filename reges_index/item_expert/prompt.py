"""The prompt of section 2.4, which LLM_G is trained with and asked with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.prompts import PromptTemplate

from reges_index.catalog.item import Item
from reges_index.dialogue.measure import TextMeasure
from reges_index.dialogue.render import HISTORY_FORMAT, RenderedHistory, render_history
from reges_index.dialogue.wording import MOVIES, Domain, template_hash
from reges_index.errors import InputError
from reges_index.item_expert.candidates import CANDIDATE_FORMAT, RenderedCandidates, render_candidates

__all__ = [
    "COT_SELECT_TMPL",
    "DEFAULT_SELECT_TMPL",
    "PromptBudget",
    "SelectionPrompt",
    "build_selection_prompt",
    "selection_prompt_hash",
]

# Word for word the paper's "Prompt for LLM_G Contrastive Fine-Tuning/Inference" (section 3.3) when the
# domain is movies.
DEFAULT_SELECT_TMPL = PromptTemplate(
    "A list of candidate {item_plural} and their abstracts are provided. According to the conversation "
    "history between seeker and recommender, select the top {item_noun} recommendation for the seeker from "
    "the candidate list. Only output one {item_noun} name. Do not generate explanation or anything else.\n"
    "\n"
    "A list of candidate abstracts: {candidates}\n"
    "\n"
    "The corresponding conversation history: {conversation_history}"
)

# Section 3.7.2: preferences first, then the item, with the instruction "think step by step".
COT_SELECT_TMPL = PromptTemplate(
    "A list of candidate {item_plural} and their abstracts are provided. According to the conversation "
    "history between seeker and recommender, select the top {item_noun} recommendation for the seeker from "
    "the candidate list. Think step by step: first summarize the seeker's preferences, then output one "
    "{item_noun} name on a line of its own.\n"
    "\n"
    "A list of candidate abstracts: {candidates}\n"
    "\n"
    "The corresponding conversation history: {conversation_history}"
)


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
    """A prompt for LLM_G, the labels it may answer with, and what was cut to make it fit."""

    messages: tuple[ChatMessage, ...]
    labels: tuple[str, ...]
    history: RenderedHistory
    candidates: RenderedCandidates


def build_selection_prompt(
    dialogue: Sequence[ChatMessage],
    items: Sequence[Item],
    *,
    measure: TextMeasure,
    budget: PromptBudget = PromptBudget(),
    template: PromptTemplate = DEFAULT_SELECT_TMPL,
    domain: Domain = MOVIES,
) -> SelectionPrompt:
    """Build LLM_G's prompt over all candidates; training and inference both call this.

    The dialogue's end always stays; when the whole does not fit, the candidates' details are shortened
    evenly (`render_candidates`). No candidate is ever dropped.

    Raises
    ------
    InputError
        If even the bare names of the candidates do not fit beside the dialogue.
    """
    frame = template.format(
        candidates="", conversation_history="", item_noun=domain.noun, item_plural=domain.plural
    )
    room = budget.total - measure.count(frame)
    if room <= 0:
        raise InputError(
            f"the prompt's own words do not fit into {budget.total} tokens",
            hint="raise max_input_tokens, or use a model with a larger context",
        )
    history = render_history(dialogue, budget=min(budget.history, room), measure=measure)
    try:
        candidates = render_candidates(
            items, measure=measure, budget=room - history.tokens, max_detail_tokens=budget.details
        )
    except ValueError as error:
        raise InputError(
            f"{len(items)} candidates do not fit into {budget.total} tokens beside the dialogue: {error}",
            hint="lower similarity_top_k, or raise max_input_tokens, or use a model with a larger context",
        ) from error
    text = template.format(
        candidates="\n" + candidates.text,
        conversation_history="\n" + history.text,
        item_noun=domain.noun,
        item_plural=domain.plural,
    )
    message = ChatMessage(role=MessageRole.USER, content=text)
    return SelectionPrompt((message,), candidates.labels, history, candidates)


def selection_prompt_hash(template: PromptTemplate = DEFAULT_SELECT_TMPL) -> str:
    """Return the hash that an item-expert adapter's manifest keeps."""
    return template_hash("item-expert", template.template, HISTORY_FORMAT, CANDIDATE_FORMAT)
