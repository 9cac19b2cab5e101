"""`Item`: one thing that can be recommended, of any domain (the set I of paper section 2.2)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from reges_index.catalog.template import DEFAULT_TEMPLATE, TextTemplate

if TYPE_CHECKING:
    from llama_index.core.schema import BaseNode, TextNode

__all__ = ["CREATOR_ALIASES", "RESERVED_KEYS", "Item", "is_reserved_key"]

CREATOR_ALIASES: dict[str, str] = {
    "directors": "director",
    "authors": "author",
    "writers": "writer",
    "developers": "developer",
    "designers": "designer",
    "artists": "artist",
    "composers": "composer",
}
"""Input names for `Item.creators`, each with the role that it implies."""

RESERVED_KEYS = frozenset(
    {
        *("id", "title", "year", "genres", "creators", "creator_role", "cast", "abstract", "metadata"),
        *CREATOR_ALIASES,
        # What LlamaIndex and this package write beside an item's own metadata.
        *("text", "document_id", "doc_id", "ref_doc_id", "reges_item", "reges_hash"),
        # What ranking adds to a node.
        *("probability", "retrieval_score", "retrieval_rank"),
    }
)
"""Names that `Item.metadata` may not use, because a node keeps metadata and fields side by side."""

_INT64 = 2**63


def is_reserved_key(key: str) -> bool:
    """Whether `Item.metadata` may not have this key."""
    return not key.strip() or key in RESERVED_KEYS or key.startswith(("_", "chroma:"))


class Item(BaseModel):
    """One item of a catalog. Frozen; equal by content, hashed by id.

    Parameters
    ----------
    id
        Unique within a catalog; the only thing that identifies an item, since titles repeat. Integers are
        taken as their decimal text.
    title
        Not blank.
    year
        Year of release or publication, -9999 to 9999, or None. Text that is an integer is accepted.
    genres, creators, cast
        Names; blank ones are dropped and a single string is a list of one.
    creator_role
        What the creators are ("director", "author", ...), used in the embedded text. Set by the input name
        of the creators (`CREATOR_ALIASES`), default "creator".
    abstract
        Free text, may be empty.
    metadata
        Anything else worth filtering on: strings, finite floats, 64-bit integers, booleans, lists of strings.

    Raises
    ------
    pydantic.ValidationError
        (a ValueError) if a field is missing, of the wrong kind, or not valid Unicode.

    Examples
    --------
    >>> item = Item(id="tt1", title="Alien", year=1979, directors=["Ridley Scott"])
    >>> print(item.text())
    Alien (1979)
    Directed by Ridley Scott
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    title: str
    year: int | None = Field(default=None, ge=-9999, le=9999)
    genres: tuple[str, ...] = ()
    creators: tuple[str, ...] = ()
    creator_role: str = Field(default="creator", min_length=1)
    cast: tuple[str, ...] = ()
    abstract: str = ""
    metadata: dict[str, str | int | float | bool | list[str]] = Field(default_factory=dict)

    # ``directors`` and the like are input names only; one field holds them so that any domain fits.
    @model_validator(mode="before")
    @classmethod
    def _name_creators(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        values = dict(data)
        given = [alias for alias in CREATOR_ALIASES if alias in values]
        filled = [alias for alias in given if values[alias]]
        if len(filled) > 1 or (filled and values.get("creators")):
            names = " and ".join(filled if len(filled) > 1 else [*filled, "creators"])
            raise ValueError(f"an item has one kind of creators, got {names}; put the others into metadata")
        for alias in given:
            people = values.pop(alias)
            if alias in filled or (len(given) == 1 and "creators" not in values):
                values["creators"] = people
                values.setdefault("creator_role", CREATOR_ALIASES[alias])
        return values

    @field_validator("id", mode="before")
    @classmethod
    def _id_as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("id", "title")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is blank")
        return value

    @field_validator("year", mode="before")
    @classmethod
    def _year_as_number(cls, value: Any) -> Any:
        if isinstance(value, bool):  # pydantic would read True as the year 1
            raise ValueError("is not an integer")
        if isinstance(value, str) and not value.strip():
            return None
        return value

    @field_validator("genres", "creators", "cast", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if value is None:
            return ()
        if isinstance(value, str):
            value = (value,)
        if isinstance(value, Iterable) and not isinstance(value, (bytes, Mapping)):
            return tuple(name for name in value if not isinstance(name, str) or name.strip())
        return value

    @field_validator("abstract", mode="before")
    @classmethod
    def _no_abstract(cls, value: Any) -> Any:
        return "" if value is None else value

    @field_validator("metadata")
    @classmethod
    def _storable(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key, entry in value.items():
            if is_reserved_key(key):
                raise ValueError(f"metadata key {key!r} is reserved; use another name")
            if isinstance(entry, float) and not math.isfinite(entry):
                raise ValueError(f"metadata {key!r} is {entry}; only finite numbers can be stored")
            if isinstance(entry, int) and not -_INT64 <= entry < _INT64:
                raise ValueError(f"metadata {key!r} does not fit into 64 bits; store it as text")
        return value

    @model_validator(mode="after")
    def _is_unicode(self) -> Item:
        try:
            self._canonical()
        except UnicodeEncodeError as error:  # JSON can carry half of a surrogate pair; no store can
            broken = str(error.object)[max(0, error.start - 20) : error.end]
            raise ValueError(f"is not valid Unicode near {broken!a}") from error
        return self

    def __hash__(self) -> int:
        return hash(self.id)

    def text(self, template: TextTemplate | None = None) -> str:
        """Return the text that stands for the item in the vector store.

        Parameters
        ----------
        template
            How to write it; None is `DEFAULT_TEMPLATE`.
        """
        return (template or DEFAULT_TEMPLATE).render(self)

    @property
    def content_hash(self) -> str:
        """SHA-256 (hex) over all fields; the same on every machine and in every process."""
        return hashlib.sha256(self._canonical()).hexdigest()

    def _canonical(self) -> bytes:
        return json.dumps(self.model_dump(), ensure_ascii=False, sort_keys=True).encode()

    def to_node(self, template: TextTemplate | None = None) -> TextNode:
        """Return the item as a LlamaIndex node; see `reges_index.catalog.nodes.item_to_node`."""
        from reges_index.catalog.nodes import item_to_node

        return item_to_node(self, template)

    @classmethod
    def from_node(cls, node: BaseNode) -> Item:
        """Return the item that a node stands for; see `reges_index.catalog.nodes.node_to_item`."""
        from reges_index.catalog.nodes import node_to_item

        return node_to_item(node)
