"""`ExcludeItems`: candidates that must not be recommended leave before the item expert sees them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle
from pydantic import Field

from reges_index.catalog.item import Item
from reges_index.dialogue import DialogueQueryBundle, TitleIndex, dialogue_of
from reges_index.dialogue.refusals import is_refused, refused_kinds

__all__ = ["ExcludeItems", "without_excluded"]


def without_excluded(
    nodes: Sequence[NodeWithScore],
    dialogue: Sequence[ChatMessage],
    *,
    ids: Iterable[str] = (),
    mentioned: bool = False,
    titles: TitleIndex | None = None,
) -> list[NodeWithScore]:
    """Return the nodes that may be recommended, in their order.

    Parameters
    ----------
    ids
        Items that must not be recommended.
    mentioned
        Leave out items that anyone in the dialogue has named: the seeker knows them, or has turned them down.
        Those of a kind that the seeker turns down in plain words ("no horror") go, too, if others are left.
    titles
        Of the catalog behind the nodes (`ItemCatalog.titles`), so that an item which is named and was not
        retrieved is not taken for one that was. Without it, only the titles of the nodes are known.
    """
    barred = set(ids)
    items = [Item.from_node(node.node) for node in nodes]
    if mentioned:
        known = set(titles.ids) if titles is not None else set()
        strangers = [item for item in items if item.id not in known]
        for index in (titles, TitleIndex.of(strangers) if strangers else None):
            barred |= index.named_ids(dialogue) if index is not None else set()
        kinds = refused_kinds(dialogue)
        refused = {item.id for item in items if is_refused(item, kinds)}
        if len(refused) < len(items):
            barred |= refused
    return [
        node for node, item in zip(nodes, items, strict=True) if not {item.id, node.node.node_id} & barred
    ]


class ExcludeItems(BaseNodePostprocessor):
    """Drop known items from the candidates; goes before `ReGeSRerank` in a list of postprocessors.

    Parameters
    ----------
    item_ids
        Ids that must not be recommended.
    mentioned
        Also drop what the dialogue in the query bundle names; on by default.
    """

    item_ids: list[str] = Field(default_factory=list, description="Ids that must not be recommended.")
    mentioned: bool = Field(default=True, description="Whether to drop items that the dialogue names.")

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the component."""
        return "ExcludeItems"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        dialogue = dialogue_of(query_bundle) if query_bundle is not None else ()
        barred = query_bundle.exclude_ids if isinstance(query_bundle, DialogueQueryBundle) else ()
        return without_excluded(nodes, dialogue, ids=(*self.item_ids, *barred), mentioned=self.mentioned)
