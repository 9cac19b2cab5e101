"""Beyond the paper: the encoder's vectors, words, titles and statistics weighed together, as one retriever.

No LLM runs, and what a catalog does not have counts for nothing.
"""

from reges_index.fusion.features import FEATURES as FEATURES
from reges_index.fusion.features import SOURCES as SOURCES
from reges_index.fusion.features import DialogueState as DialogueState
from reges_index.fusion.features import NamedItem as NamedItem
from reges_index.fusion.model import FusionModel as FusionModel
from reges_index.fusion.retriever import FusionRetriever as FusionRetriever
from reges_index.fusion.statistics import ItemStatistics as ItemStatistics
