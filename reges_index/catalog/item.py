"""`Item`: one thing that can be recommended, of any domain (the set I of paper section 2.2).

Also its text, which is all of it that the retriever sees, and its form as a LlamaIndex node. Vector stores of
LlamaIndex take flat metadata only (text and numbers), so a node holds lists as JSON text and leaves out what
is None or empty. ``reges_item`` marks the nodes written here and says which of their keys are lists. Nodes of
others are read as items too, by the usual names of their fields.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

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
    plain_value,
    plural_of,
    role_of,
    simple_name,
    typed_text,
)
from reges_index.dialogue.messages import as_id
from reges_index.dialogue.text import parse_title
from reges_index.errors import CatalogError

if TYPE_CHECKING:
    from llama_index.core.schema import BaseNode, NodeWithScore, TextNode

logger = logging.getLogger(__name__)

MARKER = "reges_item"
"""Metadata key of nodes made by this package."""

SCORE_KIND, PROBABILITY = "score_kind", "probability"
"""Metadata of nodes whose score is the probability that the item is the one, among all items."""

_BOOKKEEPING = frozenset({"document_id", "doc_id", "ref_doc_id"})
_TITLE_LIMIT = 200
_said: set[str] = set()

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


def _listed(value: Any) -> Any:
    if value is None:
        return ()
    if isinstance(value, str):
        value = (value,)
    if isinstance(value, Iterable) and not isinstance(value, (bytes, Mapping)):
        return tuple(name for name in value if not isinstance(name, str) or name.strip())
    return (value,)


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("is blank")
    return text


def _year(value: Any) -> Any:
    if isinstance(value, bool):  # pydantic would read True as the year 1
        raise ValueError("is not an integer")
    return None if isinstance(value, str) and not value.strip() else value


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

    id: Annotated[str, BeforeValidator(as_id), AfterValidator(_filled)]
    title: Annotated[str, AfterValidator(_filled)]
    year: Annotated[int | None, BeforeValidator(_year)] = Field(default=None, ge=-9999, le=9999)
    genres: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    makers: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    cast: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    abstract: Annotated[str, BeforeValidator(lambda text: "" if text is None else text)] = ""
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

    @field_validator("metadata")
    @classmethod
    def _storable(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key, entry in value.items():
            if is_reserved_key(key):
                raise ValueError(f"metadata key {key!r} is reserved; use another name")
            if isinstance(entry, (int, float)):
                try:
                    plain_value(entry)
                except ValueError as error:
                    raise ValueError(f"metadata {key!r} {error}; no store keeps that") from error
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
    def from_node(cls, node: BaseNode, names: FieldNames | Mapping[str, str] | None = None) -> Item:
        """Return the item that a node stands for.

        For nodes of `to_node` this is the very item. Of any other node fields are found by their usual names:
        the title is the metadata's (``title``, ``name``, ``product``, ...), or else the first line of the
        text; year and article are taken out of it. The abstract is the metadata's, or else the node's text.
        Lists and numbers written as text are read as such, everything else becomes metadata, and what no
        store can keep is left out. A chunk stands for its document. What is guessed or left out is logged
        once.

        Parameters
        ----------
        names
            Which metadata keys hold which fields, where they are not called as usual:
            ``{"title": "product"}``.

        Raises
        ------
        CatalogError
            If the node was written by a version with another format, or cannot be read as an item.
        """
        if MARKER in node.metadata:
            return cls(**_own_fields(node))
        try:
            return cls(**_foreign_fields(node, FieldNames.of(names)))
        except ValidationError as error:
            problem = error.errors()[0]
            raise CatalogError(
                f"node {node.node_id!r} cannot be read as an item: {problem['msg']}",
                hint="correct its metadata, or name the right keys with field_names={'title': 'KEY'}",
            ) from error


def as_item_nodes(nodes: Sequence[NodeWithScore], names: FieldNames) -> list[NodeWithScore]:
    """Return nodes with those made elsewhere replaced by those of their items, whose fields are known."""
    return [
        node
        if MARKER in node.node.metadata
        else node.model_copy(update={"node": Item.from_node(node.node, names).to_node()})
        for node in nodes
    ]


def with_metadata(node: NodeWithScore, more: Mapping[str, Any]) -> NodeWithScore:
    """Return a copy of a node with more metadata, which is neither embedded nor shown to an LLM.

    A copy, because other components may hold the retriever's node.
    """
    inner = node.node
    hidden = {
        name: [*dict.fromkeys([*getattr(inner, name), *more])]
        for name in ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys")
    }
    changed = inner.model_copy(update={"metadata": {**inner.metadata, **more}, **hidden})
    return type(node)(node=changed, score=node.score)


def marked_probabilities(nodes: Sequence[NodeWithScore]) -> list[NodeWithScore]:
    """Return nodes that say of their scores that they are probabilities; those that do are as they were."""
    return [
        node
        if node.node.metadata.get(SCORE_KIND) == PROBABILITY
        else with_metadata(node, {SCORE_KIND: PROBABILITY})
        for node in nodes
    ]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _own_fields(node: BaseNode) -> dict[str, Any]:
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
    fields["metadata"] = {**lists, **_kept(rest, node.node_id)}
    return fields


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


def _foreign_fields(node: BaseNode, names: FieldNames) -> dict[str, Any]:
    """Return the fields of the item that a node made elsewhere stands for, by the input names of `Item`."""
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
    text = node.get_content(metadata_mode=MetadataMode.NONE)
    fields: dict[str, Any] = {"id": item_id(node, names)}
    title = str(given.get("title", "")).strip()
    if title and (key := keys["title"]) not in ("title", names.keys.get("title")):
        _say(f"{key!r} of nodes made elsewhere is taken for their title")
    elif not title:
        first = next((line for line in text.splitlines() if line.strip()), "")
        title = first.strip()[:_TITLE_LIMIT] or fields["id"]
        stand_in = "the first line of their text" if first else "their id"
        _say(
            f"nodes without a title: {stand_in} stands in (node {node.node_id!r}); title_key='KEY' names the "
            "key that holds it",
            once="no title",
        )
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
            _say(f"year and article are read out of titles such as {title!r}", once="parsed")
        title = plain
    fields.update(title=title, year=year, genres=as_names(given.get("genres")))
    people = {field: as_names(given[field], is_people=True) for field in ("cast", *ROLES) if field in given}
    fields.update(people, abstract=str(given.get("abstract", text)))
    if metadata.get(keys.get("year", "")) is not None and is_reserved_key(keys["year"]):
        del metadata[keys["year"]]
    renamed = {
        # A reserved name keeps its value under a name that is free.
        f"node_{key.lstrip('_$#').replace('chroma:', 'chroma_')}" if is_reserved_key(key) else key: value
        for key, value in metadata.items()
    }
    told = {field: _unicode(value) for field, value in fields.items()}
    return {**told, "metadata": _typed(_kept(renamed, node.node_id))}


def _kept(metadata: Mapping[str, Any], node_id: str) -> dict[str, Plain]:
    """Return the values that a store can keep; the others are left out, which is told once a key."""
    kept: dict[str, Plain] = {}
    for key, value in metadata.items():
        try:
            plain = plain_value(value)
        except ValueError as error:
            _say(
                f"metadata {key!r} of node {node_id!r} {error}: the value is left out",
                once=f"left out {key}",
            )
            continue
        if plain is not None or isinstance(value, str) or value == []:
            kept[key] = value if plain is None else plain
    return kept


def _typed(metadata: Mapping[str, Plain]) -> dict[str, Plain]:
    """Make numbers and lists of texts that are such, as in tables; what says nothing is left out."""
    typed: dict[str, Plain] = {}
    for key, value in metadata.items():
        if isinstance(value, str):
            number = as_number(value)
            read = typed_text([value])[1][0] if number is None else number
            if read is not None and not is_missing(read):
                typed[key] = read
        elif value != []:
            typed[key] = value
    return typed


def _unicode(value: Any) -> Any:
    """Replace what is no Unicode in texts and names."""
    if isinstance(value, list):
        return list(map(_unicode, value))
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value


def _say(message: str, *, once: str = "") -> None:
    """Warn the first time."""
    if (once or message) not in _said:
        _said.add(once or message)
        logger.warning("%s", message)


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
