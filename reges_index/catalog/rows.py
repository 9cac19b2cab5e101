"""Rows: what a store keeps of an item.

A row is a LlamaIndex node as `ChromaVectorStore` writes it (so stock LlamaIndex reads it), with lists as
real lists to filter on and a hash to tell whether the item has changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from chromadb import Collection
from llama_index.core.schema import BaseNode, MetadataMode, TextNode
from llama_index.core.vector_stores.utils import (
    legacy_metadata_dict_to_node,
    metadata_dict_to_node,
    node_to_metadata_dict,
)

from reges_index.catalog.item import Item, TextTemplate
from reges_index.catalog.nodes import MARKER

__all__ = ["HASH_KEY", "Row", "content_mark", "item_row", "iter_rows", "node_row", "row_node", "whole_node"]

HASH_KEY = "reges_hash"


class Row(NamedTuple):
    """What is written for one item; the vector goes beside it."""

    id: str
    document: str
    metadata: dict[str, Any]


def item_row(item: Item, template: TextTemplate) -> Row:
    """Return the row of an item."""
    row = node_row(item.to_node(template))
    row.metadata[HASH_KEY] = item.content_hash
    return row


def content_mark(metadata: Mapping[str, Any] | None, document: str | None) -> str:
    """Return the item's hash where the row has one, else a hash of its text, which equals no item's."""
    if metadata and (known := metadata.get(HASH_KEY)):
        return str(known)
    text = document if document is not None else (metadata or {}).get("_node_content", "")
    return f"text:{hashlib.sha256(str(text).encode(errors='surrogatepass')).hexdigest()}"


def node_row(node: BaseNode) -> Row:
    """Return the row of any node. Without an item's hash, so that the next sync writes it anew."""
    metadata = node_to_metadata_dict(node, remove_text=True, flat_metadata=False)
    if MARKER in node.metadata:
        marker = json.loads(metadata.pop(MARKER))
        metadata.pop("abstract", None)  # in the node's JSON and in the document already
        makers = {role: json.loads(metadata[key]) for role, key in marker["makers"].items()}
        lists = {key: json.loads(metadata[key]) for key in marker["lists"] if key in metadata}
        lists |= {key: json.loads(metadata[key]) for key in ("genres", "cast") if key in metadata}
        lists |= {marker["makers"][role]: names for role, names in makers.items()}
        # Whoever made it, under one name too; and what they are.
        lists["creators"] = list(dict.fromkeys(name for names in makers.values() for name in names))
        lists["creator_role"] = list(makers)
        # Chroma has no empty lists.
        metadata.update({key: names or None for key, names in lists.items()})
    metadata["id"] = node.node_id
    flat = {key: value for key, value in metadata.items() if value is not None}
    return Row(node.node_id, node.get_content(metadata_mode=MetadataMode.NONE), flat)


def whole_node(row: Row) -> dict[str, str]:
    """Return the metadata that hold the row's node, text and all, as LlamaIndex's own stores read it."""
    node = {**json.loads(row.metadata["_node_content"]), "text": row.document}
    content = json.dumps(node, ensure_ascii=False)
    return {"_node_content": content, "_node_type": row.metadata["_node_type"]}


def row_node(row_id: str, document: str | None, metadata: Mapping[str, Any] | None) -> BaseNode:
    """Return the node of a row, whoever wrote it: this package, LlamaIndex, or Chroma's own client."""
    values = dict(metadata or {})
    if "_node_content" in values:
        node = metadata_dict_to_node(values, text=document)  # None: the text is in the node
        if node.node_id != row_id:
            node = node.model_copy(update={"id_": row_id})
        return node
    plain, _info, relationships = legacy_metadata_dict_to_node(values)
    return TextNode(id_=row_id, text=document or "", metadata=plain, relationships=relationships)


def iter_rows(
    collection: Collection, ids: Sequence[str], include: list[str], batch_size: int
) -> Iterator[dict[str, Any]]:
    """Get rows in Chroma's batches; rows of a batch come in Chroma's order, unknown ids are left out."""
    for start in range(0, len(ids), batch_size):
        yield dict(collection.get(ids=list(ids[start : start + batch_size]), include=include))
