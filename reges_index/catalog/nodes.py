"""Items as LlamaIndex nodes, and back.

Vector stores of LlamaIndex take flat metadata only (text and numbers), so a node holds lists as JSON text
and leaves out what is None or empty. ``reges_item`` marks nodes written here and names the metadata keys
whose text is a list.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llama_index.core.schema import BaseNode, MetadataMode, TextNode

from reges_index.catalog.item import CREATOR_ALIASES, Item, is_reserved_key
from reges_index.catalog.template import TextTemplate
from reges_index.errors import CatalogError

__all__ = ["LIST_FIELDS", "MARKER", "item_to_node", "node_to_item"]

MARKER = "reges_item"
"""Metadata key of nodes made by this package."""

LIST_FIELDS = ("genres", "creators", "cast")

_NODE_FORMAT = 1
_TITLE_KEYS = ("title", "name", "movie_title", "book_title", "item_title")
_YEAR_KEYS = ("year", "release_year", "publication_year")
_GENRE_KEYS = ("genres", "genre", "categories", "category")
_ABSTRACT_KEYS = ("abstract", "description", "plot", "summary", "overview")
_BOOKKEEPING = frozenset({"document_id", "doc_id", "ref_doc_id"})
_TITLE_LIMIT = 200


def item_to_node(item: Item, template: TextTemplate | None = None) -> TextNode:
    """Return the item as a text node.

    Parameters
    ----------
    item
        The item.
    template
        How its text is written; None is the default template.

    Returns
    -------
    TextNode
        Node id = item id, text = ``item.text(template)``; every field is in the metadata, and all metadata
        is excluded from what is embedded or shown to an LLM, since the text says it already.
    """
    metadata: dict[str, Any] = {"title": item.title, "creator_role": item.creator_role}
    if item.year is not None:
        metadata["year"] = item.year
    if item.abstract:
        metadata["abstract"] = item.abstract
    for field in LIST_FIELDS:
        if names := getattr(item, field):
            metadata[field] = json.dumps(names, ensure_ascii=False)
    lists = []
    for key, value in item.metadata.items():
        if isinstance(value, list):
            lists.append(key)
            metadata[key] = json.dumps(value, ensure_ascii=False)
        else:
            metadata[key] = value
    metadata[MARKER] = json.dumps({"format": _NODE_FORMAT, "lists": lists}, ensure_ascii=False)
    keys = list(metadata)
    return TextNode(
        id_=item.id,
        text=item.text(template),
        metadata=metadata,
        excluded_embed_metadata_keys=keys,
        excluded_llm_metadata_keys=keys,
    )


def node_to_item(node: BaseNode) -> Item:
    """Return the item that a node stands for.

    For nodes of `item_to_node` this is the very item. For any other node: the id is the node id; the title
    is the metadata's ``title`` (``name``, ...; upper and lower case alike) or else the first line of the
    text, cut to 200 characters; ``year``, ``genres``, creators, ``cast`` and ``abstract`` come from metadata
    keys of these names, the abstract else from the node's text; everything else goes to `Item.metadata`,
    values of other kinds as JSON text.

    Raises
    ------
    CatalogError
        If the node was written by a newer version, or has neither a title nor text.
    """
    if MARKER in node.metadata:
        return _own(node)
    return _foreign(node)


def _own(node: BaseNode) -> Item:
    metadata = dict(node.metadata)
    marker = json.loads(metadata.pop(MARKER))
    if marker["format"] != _NODE_FORMAT:
        raise CatalogError(
            f"node {node.node_id!r} has item format {marker['format']}, this version reads {_NODE_FORMAT}",
            hint="index the catalog again, or update reges-index",
        )
    fields: dict[str, Any] = {"id": node.node_id}
    for key in ("title", "creator_role", "year", "abstract"):
        if key in metadata:
            fields[key] = metadata.pop(key)
    for key in LIST_FIELDS:
        if key in metadata:
            fields[key] = json.loads(metadata.pop(key))
    for key in marker["lists"]:
        if key in metadata:
            metadata[key] = json.loads(metadata[key])
    # Keys that a pipeline added after us (a file path, say) are kept if an item may have them.
    rest = {key: value for key, value in metadata.items() if not is_reserved_key(key) and value is not None}
    return Item(**fields, metadata=rest)


def _foreign(node: BaseNode) -> Item:
    metadata = {key: value for key, value in node.metadata.items() if key not in _BOOKKEEPING}
    by_lower = {key.lower(): key for key in reversed(metadata)}

    def take(names: tuple[str, ...]) -> Any:
        for name in names:
            if name in by_lower and (value := metadata[by_lower[name]]) not in (None, "", []):
                del metadata[by_lower.pop(name)]
                return value
        return None

    text = node.get_content(metadata_mode=MetadataMode.NONE)
    title = take(_TITLE_KEYS) or next((line for line in text.splitlines() if line.strip()), "")[:_TITLE_LIMIT]
    if not str(title).strip():
        raise CatalogError(
            f"node {node.node_id!r} has no title and no text, so it cannot be read as an item",
            hint="give its metadata a 'title'",
        )
    year = take(_YEAR_KEYS)
    fields: dict[str, Any] = {"id": node.node_id, "title": str(title).strip()}
    if (number := _as_year(year)) is not None:
        fields["year"] = number
    elif year is not None:
        metadata["year_text"] = str(year)
    fields["genres"] = _as_names(take(_GENRE_KEYS))
    fields["cast"] = _as_names(take(("cast", "actors", "stars")))
    for alias, role in (*CREATOR_ALIASES.items(), ("creators", "creator")):
        if people := _as_names(take((alias, role))):
            fields.update(creators=people, creator_role=role)
            break
    abstract = take(_ABSTRACT_KEYS)
    fields["abstract"] = text if abstract is None else str(abstract)
    return Item(**fields, metadata=_storable(metadata))


def _as_year(value: Any) -> int | None:
    try:
        year = int(str(value).strip().removesuffix(".0"))
    except ValueError:
        return None
    return year if -9999 <= year <= 9999 else None


def _as_names(value: Any) -> list[str]:
    """Read a list, a JSON list or a single name."""
    if value is None:
        return []
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return [value]
    if isinstance(value, (list, tuple, set)):
        return [str(name) for name in value]
    return [str(value)]


def _storable(metadata: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in metadata.items():
        if value is None:
            continue
        # A reserved name keeps its value under a name that is free.
        name = f"node_{key.lstrip('_').replace('chroma:', 'chroma_')}" if is_reserved_key(key) else key
        plain = isinstance(value, (str, int, float, bool)) or (
            isinstance(value, list) and all(isinstance(entry, str) for entry in value)
        )
        kept[name] = value if plain else json.dumps(value, ensure_ascii=False, default=str)
    return kept
