"""`Item`: one thing that can be recommended, of any domain (the set I of paper section 2.2).

Also its text, which is all of it that the retriever sees, and its form as a LlamaIndex node. Vector stores of
LlamaIndex take flat metadata only (text and numbers), so a node holds lists as JSON text and leaves out what
is None or empty. ``reges_item`` marks the nodes written here and says which of their keys are lists.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from reges_index.catalog.fields import ROLES, FieldNames, is_reserved_key, plural_of, role_of
from reges_index.catalog.nodes import MARKER, cleaned, foreign_fields
from reges_index.dialogue.messages import as_id
from reges_index.errors import CatalogError

if TYPE_CHECKING:
    from llama_index.core.schema import BaseNode, NodeWithScore, TextNode

__all__ = ["DEFAULT_TEMPLATE", "Item", "TextTemplate", "as_item_nodes", "render_default"]

_INT64 = 2**63
_NODE_FORMAT = 2
_BYLINES = {
    "director": "Directed by",
    "author": "Written by",
    "writer": "Written by",
    "developer": "Developed by",
    "designer": "Designed by",
    "artist": "Performed by",
    "performer": "Performed by",
    "composer": "Composed by",
    "illustrator": "Illustrated by",
    "translator": "Translated by",
    "narrator": "Narrated by",
}


class Item(BaseModel):
    """One item of a catalog. Frozen; equal by content, hashed by id.

    Parameters
    ----------
    id
        Unique within a catalog; the only thing that identifies an item, since titles repeat. Integers are
        taken as their decimal text, blanks around it are dropped.
    title
        Not blank.
    year
        Year of release or publication, -9999 to 9999, or None. Text that is an integer is accepted.
    genres, cast
        Names; blank ones are dropped and a single string is a list of one.
    makers
        Who made it, by role: ``{"director": ["Ridley Scott"]}``. Usually given under names of their own, any
        number of them: ``directors=``, ``authors=``, ``artists=``, ... (`reges_index.catalog.fields.ROLES`),
        or as ``creators=`` with a ``creator_role=``.
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
    makers: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    cast: tuple[str, ...] = ()
    abstract: str = ""
    metadata: dict[str, str | int | float | bool | list[str]] = Field(default_factory=dict)

    @property
    def creators(self) -> tuple[str, ...]:
        """All makers, whatever their role, each once."""
        return tuple(dict.fromkeys(name for names in self.makers.values() for name in names))

    @property
    def creator_role(self) -> str:
        """What the (first) makers are: "director", "author", ...; "creator" where nothing is said."""
        return next(iter(self.makers), "creator")

    # ``directors`` and the like are input names only; one field holds them so that any domain fits.
    @model_validator(mode="before")
    @classmethod
    def _gather_makers(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        values = dict(data)
        told = values.pop("makers", None)
        if told is not None and not isinstance(told, Mapping):
            raise ValueError('makers is no mapping such as {"director": ["Ridley Scott"]}')
        given = [(role_of(str(role)), people) for role, people in (told or {}).items()]
        role = values.pop("creator_role", None) or "creator"
        if not isinstance(role, str):
            raise ValueError("creator_role is no text")
        kinds = {**ROLES, "creators": role_of(role)}
        given += [(kinds[name], values.pop(name)) for name in list(values) if name in ROLES]
        makers: dict[str, Any] = {}
        for kind, people in given:
            names = _listed(people)
            makers[kind] = names if kind not in makers else (*makers[kind], *names)
        values["makers"] = {kind: tuple(dict.fromkeys(names)) for kind, names in makers.items() if names}
        return values

    @field_validator("id", mode="before")
    @classmethod
    def _id_as_text(cls, value: Any) -> Any:
        return as_id(value)

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

    @field_validator("genres", "cast", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return _listed(value)

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

    def maker_keys(self) -> dict[str, str]:
        """Return the metadata key of each role in a node: "directors" for "director"."""
        keys: dict[str, str] = {}
        for role in self.makers:
            key = plural_of(role)
            while key in self.metadata or key in keys.values():
                key += "_"
            keys[role] = key
        return keys

    def to_node(self, template: TextTemplate | None = None) -> TextNode:
        """Return the item as a text node.

        Parameters
        ----------
        template
            How its text is written; None is the default template.

        Returns
        -------
        TextNode
            Node id = item id, text = ``item.text(template)``; every field is in the metadata, makers under a
            name for each role (``directors``, ``authors``), and all metadata is excluded from what is
            embedded or shown to an LLM, since the text says it already.
        """
        from llama_index.core.schema import TextNode

        metadata: dict[str, Any] = {"title": self.title}
        if self.year is not None:
            metadata["year"] = self.year
        if self.abstract:
            metadata["abstract"] = self.abstract
        keys = self.maker_keys()
        named = {"genres": self.genres, "cast": self.cast}
        named |= {keys[role]: names for role, names in self.makers.items()}
        metadata.update({key: _json(names) for key, names in named.items() if names})
        lists = [key for key, value in self.metadata.items() if isinstance(value, list)]
        metadata.update(
            {key: _json(value) if key in lists else value for key, value in self.metadata.items()}
        )
        metadata[MARKER] = _json({"format": _NODE_FORMAT, "lists": lists, "makers": keys})
        excluded = list(metadata)
        return TextNode(
            id_=self.id,
            text=self.text(template),
            metadata=metadata,
            excluded_embed_metadata_keys=excluded,
            excluded_llm_metadata_keys=excluded,
        )

    @classmethod
    def from_node(
        cls,
        node: BaseNode,
        names: FieldNames | Mapping[str, str] | None = None,
        *,
        notes: Counter[str] | None = None,
    ) -> Item:
        """Return the item that a node stands for.

        For nodes of `to_node` this is the very item. For any other node see
        `reges_index.catalog.nodes.foreign_fields`: fields are found by their usual names, values that no
        store can keep are left out, and a chunk stands for its document.

        Parameters
        ----------
        names
            Which metadata keys hold which fields, where they are not called as usual:
            ``{"title": "product"}``.
        notes
            Counts what was left out or guessed, by what it was.

        Raises
        ------
        CatalogError
            If the node was written by a version with another format.
        """
        if MARKER in node.metadata:
            return cls(**_own_fields(node, notes))
        try:
            return cls(**foreign_fields(node, FieldNames.of(names), notes))
        except ValidationError as error:
            problem = error.errors()[0]
            raise CatalogError(
                f"node {node.node_id!r} cannot be read as an item: {problem['msg']}",
                hint="correct its metadata, or name the right keys with field_names={'title': 'KEY'}",
            ) from error


def as_item_nodes(
    nodes: Sequence[NodeWithScore], names: FieldNames, notes: Counter[str] | None = None
) -> list[NodeWithScore]:
    """Return nodes with those made elsewhere replaced by those of their items, whose fields are known."""
    return [
        node
        if MARKER in node.node.metadata
        else node.model_copy(update={"node": Item.from_node(node.node, names, notes=notes).to_node()})
        for node in nodes
    ]


def _listed(value: Any) -> Any:
    if value is None:
        return ()
    if isinstance(value, str):
        value = (value,)
    if isinstance(value, Iterable) and not isinstance(value, (bytes, Mapping)):
        return tuple(name for name in value if not isinstance(name, str) or name.strip())
    return (value,)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _own_fields(node: BaseNode, notes: Counter[str] | None) -> dict[str, Any]:
    metadata = dict(node.metadata)
    marker = json.loads(metadata.pop(MARKER))
    if marker["format"] != _NODE_FORMAT:
        raise CatalogError(
            f"node {node.node_id!r} has item format {marker['format']}, this version reads {_NODE_FORMAT}",
            hint="index the catalog again, or update reges-index",
        )
    fields: dict[str, Any] = {"id": node.node_id}
    for key in ("title", "year", "abstract"):
        if key in metadata:
            fields[key] = metadata.pop(key)
    for key in ("genres", "cast"):
        if key in metadata:
            fields[key] = json.loads(metadata.pop(key))
    fields["makers"] = {
        role: json.loads(metadata.pop(key)) for role, key in marker["makers"].items() if key in metadata
    }
    lists = {key: json.loads(metadata.pop(key)) for key in marker["lists"] if key in metadata}
    # Keys that a pipeline added after us (a file path, say) are kept if an item may have them.
    rest = {key: value for key, value in metadata.items() if not is_reserved_key(key) and value is not None}
    fields["metadata"] = {**lists, **cleaned(rest, node.node_id, notes)}
    return fields


@dataclass(frozen=True)
class TextTemplate:
    """A named way to turn an item into the text that is embedded.

    The retriever sees nothing of an item but this text, so a collection records the name of the template that
    made its vectors and refuses to be opened with another one.

    Parameters
    ----------
    name
        Name with version, such as ``"reges-item/1"``. Give a new one whenever `render` changes: it is all
        that a collection knows of the template.
    render
        Function from an item to its text.
    """

    name: str
    render: Callable[[Item], str]


def render_default(item: Item) -> str:
    """Title, year, genres, people and abstract, each kind on a line of its own; empty ones are left out.

    Short facts come first because encoders cut long texts at the end (all-MiniLM-L6-v2 after 256 tokens).
    """
    lines = [item.title if item.year is None else f"{item.title} ({item.year})"]
    if item.genres:
        lines.append(f"Genres: {', '.join(item.genres)}")
    for role, names in item.makers.items():
        lines.append(f"{_BYLINES.get(role, 'Created by')} {', '.join(names)}")
    if item.cast:
        lines.append(f"Starring {', '.join(item.cast)}")
    if item.abstract:
        lines.append(item.abstract)
    return "\n".join(lines)


DEFAULT_TEMPLATE = TextTemplate(name="reges-item/1", render=render_default)
