"""The prompt of section 2.4, which LLM_G is trained with and asked with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate

from reges_index.catalog.item import Item
from reges_index.dialogue.measure import TextMeasure
from reges_index.dialogue.render import HISTORY_FORMAT, RenderedHistory, render_history
from reges_index.dialogue.wording import MOVIES, Domain, template_hash
from reges_index.errors import ConfigError, InputError
from reges_index.item_expert.candidates import (
    CANDIDATE_FORMAT,
    RenderedCandidates,
    label_tokens,
    render_candidates,
)

__all__ = [
    "COT_SELECT_TMPL",
    "DEFAULT_SELECT_TMPL",
    "PromptBudget",
    "SelectionPrompt",
    "as_select_template",
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

# Less of a dialogue says nothing: names that leave it no more than this are too many.
_LEAST_HISTORY = 16

# Training shows the reasoning as a part of the answer; an API takes it as a part of the question only.
_REASONED = (
    "The seeker's preferences, summarized step by step already: {reasoning}\n\n"
    "Now only output the name that fits them best."
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


def as_select_template(prompt: BasePromptTemplate | str) -> PromptTemplate:
    """Return a selection prompt as a template.

    Raises
    ------
    ConfigError
        If it lacks the slot ``{candidates}`` or ``{conversation_history}``.
    """
    template = PromptTemplate(prompt) if isinstance(prompt, str) else prompt
    slots = ("{candidates}", "{conversation_history}")
    if not isinstance(template, PromptTemplate) or not all(s in template.template for s in slots):
        raise ConfigError(
            "select_prompt needs the slots {candidates} and {conversation_history}",
            hint="see DEFAULT_SELECT_TMPL",
        )
    return template


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

    No candidate is ever dropped and the dialogue's end always stays. When the whole does not fit, the
    candidates' details are shortened evenly (`render_candidates`), and what is beside the names of all of
    them is the most that the dialogue gets.

    Raises
    ------
    InputError
        If even the bare names of the candidates do not fit beside the dialogue's end.
    """
    frame = template.format(
        candidates="", conversation_history="", item_noun=domain.noun, item_plural=domain.plural
    )
    around = measure.count(frame)
    room = budget.total - around
    if room <= 0:
        raise InputError(
            f"the prompt's own words do not fit into {budget.total} tokens",
            hint="raise max_input_tokens, or use a model with a larger context",
        )
    beside_names = max(_LEAST_HISTORY, room - label_tokens(items, measure))
    history = render_history(dialogue, budget=min(budget.history, room, beside_names), measure=measure)
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
    tokens = around + history.tokens + candidates.tokens
    return SelectionPrompt((message,), candidates.labels, history, candidates, tokens)


def selection_prompt_hash(template: PromptTemplate = DEFAULT_SELECT_TMPL) -> str:
    """Return the hash that an item-expert adapter's manifest keeps."""
    return template_hash("item-expert", template.template, HISTORY_FORMAT, CANDIDATE_FORMAT)
