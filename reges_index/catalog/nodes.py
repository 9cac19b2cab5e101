"""Nodes that others have made, read as items: whatever a retriever or a collection of the user's holds."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reges_index.catalog.fields import (
    FIELD_GUESSES,
    ROLES,
    FieldNames,
    Plain,
    as_names,
    as_number,
    as_year,
    is_missing,
    is_reserved_key,
    parse_title,
    plain_value,
    simple_name,
    typed_text,
)

if TYPE_CHECKING:
    from llama_index.core.schema import BaseNode

__all__ = ["MARKER", "cleaned", "field_keys", "foreign_fields", "item_id"]

logger = logging.getLogger(__name__)

MARKER = "reges_item"
"""Metadata key of nodes made by this package."""

_BOOKKEEPING = frozenset({"document_id", "doc_id", "ref_doc_id"})
_TITLE_LIMIT = 200

_said: set[str] = set()


def item_id(node: BaseNode, names: FieldNames | None = None) -> str:
    """Return the id of the item that a node stands for, without reading the rest of it.

    A chunk stands for its document, so its item has the document's id; any other node its own.
    """
    if MARKER in node.metadata:
        return node.node_id
    key = (names.keys if names else {}).get("id")
    if key is not None and not is_missing(value := node.metadata.get(key)):
        return str(value).strip()
    document = node.ref_doc_id
    return document if document and document != "None" else node.node_id


def field_keys(metadata: Mapping[str, Any], names: FieldNames) -> dict[str, str]:
    """Return which metadata key holds which field of an item: as it is named, or else by its usual names."""
    taken = set(names.keys.values())
    by_name: dict[str, str] = {}
    for key, value in metadata.items():
        if key not in taken and not is_missing(value):
            by_name.setdefault(simple_name(key), key)
    found = {field: key for field, key in names.keys.items() if not is_missing(metadata.get(key))}
    for field, guesses in FIELD_GUESSES.items():
        if field != "id" and field not in names.keys:
            guessed = next((by_name[guess] for guess in guesses if guess in by_name), None)
            if guessed is not None and guessed not in found.values():
                found[field] = guessed
    return found


def foreign_fields(node: BaseNode, names: FieldNames, notes: Counter[str] | None = None) -> dict[str, Any]:
    """Return the fields of the item that a node made elsewhere stands for, by the input names of `Item`.

    The title is the metadata's (``title``, ``name``, ``product``, ... unless `names` says another key), or
    else the first line of the text, cut to 200 characters; year and article are taken out of it
    (`reges_index.catalog.fields.parse_title`). The abstract is the metadata's, or else the node's text. Lists
    and numbers written as text are read as such. Everything else becomes metadata; see `cleaned`.
    """
    from llama_index.core.schema import MetadataMode

    metadata = {
        key: value.tolist() if hasattr(value, "tolist") else value  # numpy's
        for key, value in node.metadata.items()
        if key not in _BOOKKEEPING
    }
    keys = field_keys(metadata, names)
    given = {field: metadata[key] for field, key in keys.items()}
    for field, key in keys.items():
        # Of a whole date the year is not all that it says.
        if field != "year" or not isinstance(given[field], str) or as_number(given[field]) is not None:
            metadata.pop(key, None)
    text = node.get_content(metadata_mode=MetadataMode.NONE).encode("utf-8", "replace").decode("utf-8")
    fields: dict[str, Any] = {"id": item_id(node, names)}
    title = str(given.get("title", "")).strip()
    if title and (key := keys["title"]) not in ("title", names.keys.get("title")):
        _say(f"{key!r} of nodes made elsewhere is taken for their title", notes, "title guessed")
    elif not title:
        first = next((line for line in text.splitlines() if line.strip()), "")
        title = first.strip()[:_TITLE_LIMIT] or fields["id"]
        stand_in = "the first line of their text" if first else "their id"
        said = f"nodes without a title: {stand_in} stands in (node {node.node_id!r}); "
        _say(f"{said}title_key='KEY' names the key that holds it", notes, "title missing", once="no title")
    year = None
    try:
        year = as_year(given.get("year"))
    except ValueError:
        metadata.pop(keys["year"], None)
        metadata["year_text"] = str(given["year"])
    if year is not None and not -9999 <= year <= 9999:
        metadata["year_text"], year = str(year), None
    if names.parse_titles:
        plain, year = parse_title(title, year)
        if plain != title:
            _say(
                "year and article are read out of titles such as " + repr(title),
                notes,
                "title parsed",
                once="parsed",
            )
        title = plain
    fields.update(title=title, year=year)
    fields["genres"] = _unicode(as_names(given.get("genres")))
    fields["cast"] = _unicode(as_names(given.get("cast"), is_people=True))
    for plural in ROLES:
        if plural in given:
            fields[plural] = _unicode(as_names(given[plural], is_people=True))
    fields["abstract"] = str(given.get("abstract", text))
    for field in ("title", "abstract", "id"):
        fields[field] = fields[field].encode("utf-8", "replace").decode("utf-8")
    if metadata.get(keys.get("year", "")) is not None and is_reserved_key(keys["year"]):
        del metadata[keys["year"]]
    renamed = {
        # A reserved name keeps its value under a name that is free.
        f"node_{key.lstrip('_$#').replace('chroma:', 'chroma_')}" if is_reserved_key(key) else key: value
        for key, value in metadata.items()
    }
    fields["metadata"] = cleaned(renamed, node.node_id, notes, typed=True)
    return fields


def cleaned(
    metadata: Mapping[str, Any], node_id: str, notes: Counter[str] | None, *, typed: bool = False
) -> dict[str, Plain]:
    """Return the values that a store can keep; the others are left out, counted, and told once a key.

    With `typed`, texts that are numbers or lists become such, as in tables.
    """
    kept: dict[str, Plain] = {}
    for key, value in metadata.items():
        try:
            plain = plain_value(value)
        except ValueError as error:
            _say(
                f"metadata {key!r} of node {node_id!r} {error}: the value is left out",
                notes,
                f"metadata {key} left out",
                once=f"left out {key}",
            )
            continue
        if plain is None and (typed or not (isinstance(value, str) or value == [])):
            continue
        if typed and isinstance(plain, str):
            number = as_number(plain)
            kind, [listed] = ("number", [number]) if number is not None else typed_text([plain])
            if is_missing(plain if kind == "text" else listed):
                continue
            plain = plain if listed is None else listed
        kept[key] = value if plain is None else plain
    return kept


def _unicode(names: list[str]) -> list[str]:
    return [name.encode("utf-8", "replace").decode("utf-8") for name in names]


def _say(message: str, notes: Counter[str] | None, note: str, *, once: str = "") -> None:
    """Count, and warn the first time."""
    if notes is not None:
        notes[note] += 1
    if (once or message) not in _said:
        _said.add(once or message)
        logger.warning("%s", message)
