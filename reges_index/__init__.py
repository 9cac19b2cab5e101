"""ReGeS Index: conversational recommendation for LlamaIndex.

The two halves of ReGeS (Yang and Fang 2025): a query expert that turns a dialogue into a search query, and
an item expert that picks one of the candidates which the query retrieves. Names are loaded on first use:
importing this package takes milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from reges_index.catalog.catalog import ItemCatalog as ItemCatalog
    from reges_index.catalog.demo import demo_catalog as demo_catalog
    from reges_index.catalog.demo import demo_dialogue as demo_dialogue
    from reges_index.catalog.item import Item as Item
    from reges_index.catalog.live import LiveCatalog as LiveCatalog
    from reges_index.catalog.local_encoders import ReGeSEmbedding as ReGeSEmbedding
    from reges_index.catalog.readers import read_items as read_items
    from reges_index.dialogue.messages import Turn as Turn
    from reges_index.dialogue.messages import read_turns as read_turns
    from reges_index.dialogue.render import DialogueQueryBundle as DialogueQueryBundle
    from reges_index.dialogue.wording import Domain as Domain
    from reges_index.engines.chat_engine import ReGeSChatEngine as ReGeSChatEngine
    from reges_index.engines.query_engine import Recommendation as Recommendation
    from reges_index.engines.query_engine import ReGeSQueryEngine as ReGeSQueryEngine
    from reges_index.engines.retrieval import ExcludeItems as ExcludeItems
    from reges_index.engines.tool import as_query_engine_tool as as_query_engine_tool
    from reges_index.engines.workflow import ReGeSWorkflow as ReGeSWorkflow
    from reges_index.errors import LLMServerError as LLMServerError
    from reges_index.errors import ReGeSError as ReGeSError
    from reges_index.fusion.model import FusionModel as FusionModel
    from reges_index.item_expert.events import ItemSelectedEvent as ItemSelectedEvent
    from reges_index.item_expert.rerank import ReGeSRerank as ReGeSRerank
    from reges_index.item_expert.synthesizer import ReGeSSynthesizer as ReGeSSynthesizer
    from reges_index.models.llm import ReGeSLLM as ReGeSLLM
    from reges_index.models.local_lm import LocalLM as LocalLM
    from reges_index.pipeline import load_pipeline as load_pipeline
    from reges_index.pipeline import save_pipeline as save_pipeline
    from reges_index.query_expert.events import QueryWrittenEvent as QueryWrittenEvent
    from reges_index.query_expert.retriever import ReGeSRetriever as ReGeSRetriever
    from reges_index.query_expert.transform import ReGeSQueryTransform as ReGeSQueryTransform
    from reges_index.settings import PipelineSettings as PipelineSettings
    from reges_index.settings import QueryDecoding as QueryDecoding
    from reges_index.settings import ReasoningDecoding as ReasoningDecoding
    from reges_index.ui import build_ui as build_ui
else:
    from reges_index._lazy import lazy_names

    __getattr__, __dir__, _names = lazy_names(__name__)
    # A star import loads all that it names, and must not ask for the extra `ui`.
    __all__ = [name for name in _names if name != "build_ui"]
