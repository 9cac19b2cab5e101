"""The prompts of section 2.3: one to write pseudo-queries with the truth in sight, one for LLM_QR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.prompts import PromptTemplate

from reges_index.dialogue.measure import TextMeasure
from reges_index.dialogue.render import HISTORY_FORMAT, RenderedHistory, render_history
from reges_index.dialogue.text import one_line
from reges_index.dialogue.wording import MOVIES, Domain, template_hash

# Word for word the paper's "Prompt for LLM_QR Self-Supervision" (section 3.3) when the domain is movies.
DEFAULT_PSEUDO_QUERY_TMPL = PromptTemplate(
    "Find the common concepts between the conversation history that the seeker reveals and the ground truth "
    "{item_noun}, particularly paying attention to {item_details}, etc. Then, formulate a "
    "good natural-language search query for matching introduction of {item_plural} the seeker likes. Only "
    "output the query, do not include any explanation.\n"
    "\n"
    "Conversation history: {conversation_history}\n"
    "\n"
    "Ground truth items: {ground_truth_items}"
)

# The same request without the truth: what LLM_QR sees in training and at inference, and, with an
# untrained model, the paper's Direct Prompt (section 3.5).
DEFAULT_QUERY_TMPL = PromptTemplate(
    "Find the concepts in the conversation history that the seeker reveals, particularly paying attention to "
    "{item_details}, etc. Then, formulate a good natural-language search query for matching "
    "introduction of {item_plural} the seeker likes. Only output the query, do not include any explanation.\n"
    "\n"
    "Conversation history: {conversation_history}"
)


@dataclass(frozen=True)
class QueryPrompt:
    """A prompt for LLM_QR and what of the dialogue did not fit into it."""

    messages: tuple[ChatMessage, ...]
    history: RenderedHistory


def build_query_prompt(
    dialogue: Sequence[ChatMessage],
    *,
    truth: Sequence[str] | None = None,
    template: PromptTemplate | None = None,
    domain: Domain = MOVIES,
    max_history_tokens: int | None = None,
    measure: TextMeasure | None = None,
) -> QueryPrompt:
    """Build LLM_QR's prompt; training and inference both call this.

    Parameters
    ----------
    dialogue
        Oldest message first.
    truth
        For the teacher's prompt, with the true items in sight (section 2.3): one text for each of them
        (title, year, genres, people, abstract).
    template
        Has the slot ``{conversation_history}`` and may have ``{item_noun}``, ``{item_plural}``,
        ``{item_details}`` (what to pay attention to) and ``{ground_truth_items}``.
    max_history_tokens
        Budget of the dialogue's text, cut from the oldest end; None for no limit. Needs ``measure``.
    """
    usual = DEFAULT_QUERY_TMPL if truth is None else DEFAULT_PSEUDO_QUERY_TMPL
    history = render_history(dialogue, budget=max_history_tokens, measure=measure)
    text = (template or usual).format(
        conversation_history=history.text,
        ground_truth_items="\n".join(map(one_line, truth or ())),
        item_noun=domain.noun,
        item_plural=domain.plural,
        item_details=domain.looked_for,
    )
    return QueryPrompt((ChatMessage(role=MessageRole.USER, content=text),), history)


def query_prompt_hash(template: PromptTemplate = DEFAULT_QUERY_TMPL) -> str:
    """Return the hash that a query-expert adapter's manifest keeps.

    It is that of the prompt for films: what else the domain says is filled in later.
    """
    text = template.template.replace("{item_details}", MOVIES.looked_for)
    return template_hash("query-expert", text, HISTORY_FORMAT)
