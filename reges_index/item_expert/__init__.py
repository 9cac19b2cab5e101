"""Retrieval-augmented generation (section 2.4): the item expert LLM_G."""

from reges_index.item_expert.events import CandidateScore, ItemSelectedEvent
from reges_index.item_expert.prompt import (
    COT_SELECT_TMPL,
    DEFAULT_RANK_TMPL,
    DEFAULT_SELECT_TMPL,
    build_selection_prompt,
)
from reges_index.item_expert.ranking import RankedCandidate, Ranking
from reges_index.item_expert.reasoning import Reasoning, hear_reasoning
from reges_index.item_expert.rerank import ReGeSRerank
from reges_index.item_expert.selection import Selection
from reges_index.item_expert.synthesizer import ReGeSSynthesizer
from reges_index.settings import ReasoningDecoding

__all__ = [
    "COT_SELECT_TMPL",
    "DEFAULT_RANK_TMPL",
    "DEFAULT_SELECT_TMPL",
    "CandidateScore",
    "ItemSelectedEvent",
    "RankedCandidate",
    "Ranking",
    "ReGeSRerank",
    "ReGeSSynthesizer",
    "Reasoning",
    "ReasoningDecoding",
    "Selection",
    "build_selection_prompt",
    "hear_reasoning",
]
