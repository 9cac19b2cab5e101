from __future__ import annotations

import datetime
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import Document, MetadataMode, TextNode
from pydantic import ValidationError

import reges_index.catalog.item as items_module
from reges_index.catalog import FieldNames, Item, TextTemplate
from reges_index.catalog.fields import is_reserved_key
from reges_index.errors import InputError

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
filled = text.filter(lambda value: value.strip())
names = st.lists(filled, max_size=3)
keys = filled.filter(lambda key: not is_reserved_key(key))
values = st.one_of(
    text,
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    names,
)
items = st.builds(
    Item,
    id=filled,
    title=filled,
    year=st.none() | st.integers(-9999, 9999),
    genres=names,
    creators=names,
    creator_role=st.sampled_from(["creator", "director", "author", "chef"]),
    cast=names,
    abstract=text,
    metadata=st.dictionaries(keys, values, max_size=3),
)


@given(items)
def test_item_to_node_and_back_is_the_same_item(item: Item):
    back = Item.from_node(item.to_node())
    assert back == item
    assert back.content_hash == item.content_hash
    assert Item.from_node(TextNode.from_json(item.to_node().to_json())) == item


@given(items)
def test_node_is_flat_and_shows_only_its_text(item: Item):
    node = item.to_node()
    assert node.node_id == item.id
    assert all(isinstance(value, (str, int, float)) for value in node.metadata.values())
    for mode in (MetadataMode.EMBED, MetadataMode.LLM):
        assert node.get_content(metadata_mode=mode) == item.text()


@given(items, items)
def test_hash_is_equal_iff_content_is(one: Item, other: Item):
    same = json.dumps(one.model_dump(), sort_keys=True) == json.dumps(other.model_dump(), sort_keys=True)
    assert (one.content_hash == other.content_hash) == same
    assert one.content_hash == Item.model_validate(one.model_dump()).content_hash


@given(items, st.sampled_from(["title", "abstract", "id"]))
def test_hash_changes_with_a_field(item: Item, field: str):
    assert item.model_copy(update={field: getattr(item, field) + "x"}).content_hash != item.content_hash


def test_creators_are_known_by_the_name_they_came_under():
    film = Item(id="1", title="Alien", directors=["Ridley Scott"])
    book = Item(id="2", title="Emma", authors="Jane Austen")
    game = Item(id="3", title="Myst", creators=["Cyan"])
    assert (film.creator_role, book.creator_role, game.creator_role) == ("director", "author", "creator")
    assert book.creators == ("Jane Austen",)
    assert "Directed by Ridley Scott" in film.text()
    assert "Written by Jane Austen" in book.text()
    assert "Created by Cyan" in game.text()
    comic = Item(id="4", title="Maus", writers=["A"], artists=["B", "A"], directors=[], creators=["C"])
    assert comic.makers == {"writer": ("A",), "artist": ("B", "A"), "creator": ("C",)}
    assert comic.creators == ("A", "B", "C")
    assert Item.from_node(comic.to_node()) == comic
    cook = Item(id="5", title="Soup", makers={"chef": "D"}, metadata={"chefs": 2})
    assert Item.from_node(cook.to_node()) == cook


def test_text_has_every_part_once():
    item = Item(
        id="1", title="Alien", year=1979, genres=["Horror"], cast=["Sigourney Weaver"], abstract="A ship."
    )
    assert item.text() == "Alien (1979)\nGenres: Horror\nStarring Sigourney Weaver\nA ship."
    assert item.text(TextTemplate("t", lambda it: it.title.upper())) == "ALIEN"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"title": " "}, "is blank"),
        ({"id": ""}, "is blank"),
        ({"year": "soon"}, "valid integer"),
        ({"year": True}, "not an integer"),
        ({"year": 12345}, "less than or equal to 9999"),
        ({"metadata": {"title": "x"}}, "reserved"),
        ({"metadata": {"_x": "x"}}, "reserved"),
        ({"metadata": {"x": float("nan")}}, "finite"),
        ({"metadata": {"x": 2**63}}, "64 bits"),
        ({"metadata": {"x": {"y": 1}}}, "metadata"),
        ({"title": "\ud800"}, "not valid Unicode"),
        ({"tilte": "x"}, "Extra inputs"),
    ],
)
def test_bad_fields(fields: dict, message: str):
    with pytest.raises(ValidationError, match=message):
        Item(**{"id": "1", "title": "x", **fields})


def test_items_are_frozen_and_hashable():
    item = Item(id=7, title="x", metadata={"a": 1})
    assert item.id == "7"
    assert {item: 1}[Item(id="7", title="x", metadata={"a": 1})] == 1
    with pytest.raises(ValidationError):
        item.title = "y"


def test_foreign_nodes():
    node = TextNode(
        id_="n1",
        text="A ship in space.",
        metadata={"Name": "Alien", "year": "1979", "genre": "Horror", "author": "X", "doc_id": "d", "n": None,
                  "nested": {"a": 1}, "_private": 3},
    )  # fmt: skip
    item = Item.from_node(node)
    assert item == Item(
        id="n1", title="Alien", year=1979, genres=["Horror"], authors=["X"], abstract="A ship in space.",
        metadata={"nested": '{"a": 1}', "node_private": 3},
    )  # fmt: skip
    plain = Item.from_node(TextNode(id_="n2", text="\n First line\nsecond"))
    assert plain.title == "First line"
    assert Item.from_node(TextNode(id_="n3", text="t", metadata={"year": "long ago"})).metadata == {
        "year_text": "long ago"
    }
    assert Item.from_node(TextNode(id_="n4", text=" ")).title == "n4"


def test_values_of_nodes_that_no_store_keeps_are_left_out_and_told(caplog):
    items_module._said.clear()
    odd = {"price": float("nan"), "best": float("inf"), "huge": 2**70, "half": "\ud800",
           "none": np.float64("nan"), "year": np.float32("nan")}  # fmt: skip
    even = {"rank": np.int64(3), "rate": np.float32(0.5), "tags": np.array(["a", "b"]),
            "when": datetime.date(2001, 2, 3)}  # fmt: skip
    metadata = {"title": "Alpha", **odd, **even}
    node = TextNode(id_="n", text="x", metadata=metadata)
    item = Item.from_node(node)
    assert item.metadata == {"rank": 3, "rate": 0.5, "tags": ["a", "b"], "when": "2001-02-03"}
    assert item.year is None
    for key in ("price", "best", "huge", "half", "none"):
        assert f"metadata {key!r} of node 'n'" in caplog.text
    own = Item(id="1", title="Beta").to_node()
    own.metadata["price"] = float("nan")
    assert Item.from_node(own) == Item(id="1", title="Beta")


def test_fields_of_ones_own_naming(caplog):
    items_module._said.clear()
    node = TextNode(
        id_="n", text="A lamp for desks.", metadata={"label": "Lux 3", "maker": "A. B", "sku": 7, "watt": "9"}
    )
    names = {"title": "label", "designers": "maker", "id": "sku"}
    assert Item.from_node(node, names) == Item(
        id="7", title="Lux 3", designers=["A. B"], abstract="A lamp for desks.", metadata={"watt": 9}
    )
    assert caplog.text == ""
    Item.from_node(node)
    Item.from_node(node)
    assert caplog.text.count("title_key") == 1
    for key in ("product", "Name"):
        assert Item.from_node(TextNode(id_="n", text="x", metadata={key: "Lux 4"})).title == "Lux 4"
        assert repr(key) in caplog.text
    with pytest.raises(InputError, match="'colour' is no field") as caught:
        FieldNames({"colour": "c"})
    assert "title" in caught.value.hint


def test_tables_in_nodes_read_as_in_files():
    metadata = {"title": "Orchard, The (1999)", "genres": "['Horror', 'Sci-Fi']", "rating": "8.5",
                "code": "007", "tags": "[]", "author": "Ann Lee, Bo Ek", "directors": "Cy Ono"}  # fmt: skip
    node = TextNode(id_="n", text="x", metadata=metadata)
    item = Item.from_node(node)
    assert (item.title, item.year, item.genres) == ("The Orchard", 1999, ("Horror", "Sci-Fi"))
    assert item.makers == {"director": ("Cy Ono",), "author": ("Ann Lee", "Bo Ek")}
    assert item.metadata == {"rating": 8.5, "code": "007"}
    assert Item.from_node(node, FieldNames(parse_titles=False)).title == "Orchard, The (1999)"


def test_chunks_stand_for_their_document():
    document = Document(id_="doc", text="One. " * 60 + "Two. " * 60, metadata={"title": "Alpha"})
    chunks = SentenceSplitter(chunk_size=80, chunk_overlap=0).get_nodes_from_documents([document])
    assert len(chunks) > 2
    assert {Item.from_node(chunk).id for chunk in chunks} == {"doc"}


def test_items_and_readers_need_neither_chroma_nor_torch():
    code = (
        "import sys; from reges_index.catalog import Item, read_items; import reges_index.catalog.demo; "
        "heavy = {'torch', 'chromadb', 'sentence_transformers'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
