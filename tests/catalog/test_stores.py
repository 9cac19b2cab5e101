"""One contract for every store: the same items, scores, filters and errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillWaiting
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import Document, TextNode
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)
from llama_index.vector_stores.chroma import ChromaVectorStore

from reges_index.catalog import Item, ItemCatalog
from reges_index.catalog.filters import parse_filters, passes
from reges_index.errors import (
    CatalogError,
    ConfigError,
    EncoderMismatchError,
    InputError,
    StoreNotFoundError,
)
from tests.catalog.conftest import KINDS, MakeCatalog
from tests.catalog.hashing import HashingEmbedding
from tests.catalog.test_catalog import FILMS, FILTERS
from tests.catalog.test_sync import counts, make, start_writer

pytest.importorskip("qdrant_client")
pytest.importorskip("lancedb")

Op = FilterOperator


def one(key: str, operator: FilterOperator, value: Any) -> MetadataFilters:
    """A filter, also of values that LlamaIndex's own checks would convert."""
    return MetadataFilters(filters=[MetadataFilter.model_construct(key=key, value=value, operator=operator)])


def cosines(query: str, items: Sequence[Item]) -> dict[str, float]:
    embedding = HashingEmbedding()
    vector = embedding.get_query_embedding(query)
    return {item.id: float(np.dot(vector, embedding.get_text_embedding(item.text()))) for item in items}


def test_contents_and_scores(make_catalog: MakeCatalog):
    catalog = make_catalog(FILMS)
    assert list(catalog.items()) == FILMS
    assert (catalog.ids(), len(catalog)) == (["a", "b", "c", "d"], 4)
    assert "a" in catalog
    assert "z" not in catalog
    assert catalog.get(["c", "a", "c"]) == [FILMS[2], FILMS[0], FILMS[2]]
    with pytest.raises(CatalogError, match="has no item 'x'"):
        catalog.get(["a", "x"])
    expected = cosines("alien ship", FILMS)
    hits = catalog.as_retriever(similarity_top_k=100).retrieve("alien ship")
    assert {hit.node_id: hit.score for hit in hits} == pytest.approx(expected, abs=1e-4)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert [Item.from_node(hit.node) for hit in hits] == catalog.get([hit.node_id for hit in hits])
    [batch] = catalog.retrieve_batch(["alien ship"], 100)
    assert dict(batch) == pytest.approx(expected, abs=1e-4)
    through_index = catalog.as_index().as_retriever(similarity_top_k=2).retrieve("alien ship")
    assert [hit.node_id for hit in through_index] == [hit.node_id for hit in hits[:2]]
    contents = catalog.contents()
    assert contents.items == tuple(FILMS)
    embedded = HashingEmbedding().get_text_embedding_batch([film.text() for film in FILMS])
    assert contents.vectors == pytest.approx(np.array(embedded), abs=1e-6)
    in_memory = ItemCatalog.from_items(FILMS, embed_model=HashingEmbedding())
    assert catalog.fingerprint() == in_memory.fingerprint()


def test_syncs_embed_only_what_changed(make_catalog: MakeCatalog):
    embedding = HashingEmbedding()
    catalog = make_catalog(make(10), embed_model=embedding)
    before = catalog.fingerprint()
    assert counts(catalog.sync(make(10))) == (0, 0, 0, 10)
    assert catalog.fingerprint() == before
    changed = [*make(12)[:8], *make(12, "new")[8:12]]
    assert counts(catalog.sync(changed, batch_size=3)) == (2, 2, 0, 8)
    assert catalog.fingerprint() != before
    assert counts(catalog.sync(changed[5:])) == (0, 0, 5, 7)
    assert embedding.embedded == 14
    assert list(catalog.items()) == sorted(changed[5:], key=lambda item: item.id)
    ranked = dict(catalog.retrieve_batch(["Film 9 new"], 50)[0])
    assert ranked == pytest.approx(cosines("Film 9 new", changed[5:]), abs=1e-4)
    assert counts(catalog.add([*make(6)[5:], *make(1, "again")])) == (1, 0, 0, 1)
    assert catalog.remove(["0", "6"]) == 2
    assert catalog.ids() == ["10", "11", "5", "7", "8", "9"]
    with pytest.raises(CatalogError, match="has no item '0'"):
        catalog.remove(["5", "0"])
    with pytest.raises(InputError, match="no item would be left"):
        catalog.remove(catalog.ids())
    assert len(catalog) == 6


MAKERS = [
    Item(id="1", title="Alpha", directors=["Ann Lee"], authors=["Bo Ek"], metadata={"price": 5, "code": "a"}),
    Item(id="2", title="Beta", authors=["Ann Lee"], metadata={"price": 7.5}),
    Item(id="3", title="Gamma", creators=["Cy Ono"], year=2001),
]
FIELDS = [
    ("id", Op.NIN, ["1"], "23"),
    ("id", Op.IN, ["1", "3", "9"], "13"),
    ("id", Op.EQ, "2", "2"),
    ("id", Op.NE, 2, "13"),
    ("title", Op.EQ, "Beta", "2"),
    ("directors", Op.EQ, "Ann Lee", "1"),
    ("directors", Op.NIN, ["Ann Lee"], "23"),
    ("authors", Op.IN, ["Ann Lee", "Bo Ek"], "12"),
    ("creators", Op.CONTAINS, "Ann Lee", "12"),
    ("creators", Op.EQ, "Cy Ono", "3"),
    ("creator_role", Op.EQ, "author", "12"),
    ("price", Op.LTE, 6, "1"),
    ("price", Op.EQ, "7.5", "2"),
    ("price", Op.NE, "5", "23"),
    ("year", Op.NE, "2001", "12"),
    ("genres", Op.NE, "Drama", "123"),
]


WRITTEN = [
    # Upper and lower case, numbers as text, also in a field that holds both; but ids are what they are.
    Item(id="a", title="Heat", genres=["Crime"], metadata={"size": "5", "new": True}),
    Item(id="A", title="HEAT", genres=["CRIME"], metadata={"size": 5, "new": False}),
    Item(id="b", title="Emma", genres=["Drama"], metadata={"size": "large"}),
]
SPELLINGS = [
    ("genres", Op.IN, ["crime"], "Aa"),
    ("genres", Op.NE, "Crime", "b"),
    ("title", Op.EQ, "heat", "Aa"),
    ("size", Op.EQ, "5", "Aa"),
    ("size", Op.EQ, 5.0, "Aa"),
    ("size", Op.NIN, ["5", "Large"], ""),
    ("size", Op.GTE, 5, "A"),
    ("new", Op.EQ, "true", "a"),
    ("id", Op.EQ, "a", "a"),
]


@pytest.mark.parametrize(("items", "table"), [(FILMS, FILTERS), (MAKERS, FIELDS), (WRITTEN, SPELLINGS)])
def test_every_operator_and_field(make_catalog: MakeCatalog, items: list[Item], table: list[Any]):
    catalog = make_catalog(items)
    index = catalog.as_index()
    for key, operator, value, expected in table:
        filters = one(key, operator, value)
        assert "".join(catalog.ids(filters)) == expected, (key, operator, value)
        for source in (catalog, index):
            hits = source.as_retriever(similarity_top_k=9, filters=filters).retrieve("x")
            assert "".join(sorted(hit.node_id for hit in hits)) == expected, (key, operator, value)


def test_fields_that_no_item_has_are_refused(make_catalog: MakeCatalog):
    catalog = make_catalog(MAKERS)
    index = catalog.as_index()
    for key, meant in [
        ("Genres", "genres"),
        ("abstract", "authors"),
        ("directer", "directors"),
        ("cde", "code"),
    ]:
        filters = one(key, Op.NIN, ["x"])
        for ask in (
            lambda filters=filters: catalog.query("x", filters=filters),
            lambda filters=filters: catalog.ids(filters),
            lambda filters=filters: index.as_retriever(filters=filters).retrieve("x"),
        ):
            with pytest.raises(InputError, match=repr(key)) as caught:
                ask()
            assert meant in caught.value.hint
    with pytest.raises(InputError, match="'soon'"):
        catalog.ids(one("year", Op.NE, "soon"))


ODD_KEYS = ("k", "a.b", "a[0]", "it's", 'say "x"', "naïve key", "ключ", "k`")
SCALARS = st.sampled_from(["a", "b", "it's", "5", "True", "", True, False, 0, 1, 5, 5.0, -1.5, 2**60, 1e300])
METADATA = st.dictionaries(
    st.sampled_from(ODD_KEYS),
    SCALARS | st.lists(st.sampled_from(["a", "b", "it's", "5", "x y"]), max_size=3),
    max_size=4,
)


def _mixed_items() -> list[Item]:
    """Sixty items whose metadata have every key and kind of value, drawn once."""
    rng = np.random.default_rng(0)
    values = ["a", "b", "it's", "5", "True", "", True, False, 0, 1, 5, 5.0, -1.5, 2**60, 1e300]
    lists = [[], ["a"], ["a", "b"], ["it's", "5"], ["x y"]]
    items = []
    for number in range(60):
        keys = rng.choice(len(ODD_KEYS), size=rng.integers(0, 5), replace=False)
        metadata: dict[str, Any] = {}
        for key in keys:
            choice = int(rng.integers(0, len(values) + len(lists)))
            metadata[ODD_KEYS[key]] = [*values, *lists][choice]
        genres = [name for name in ("Drama", "Horror", "Comedy") if rng.random() < 0.4]
        year = None if rng.random() < 0.2 else int(rng.integers(1950, 2020))
        items.append(Item(id=f"{number}", title=f"T {number}", year=year, genres=genres, metadata=metadata))
    return items


def _conditions() -> st.SearchStrategy[MetadataFilters]:
    membership = [Op.EQ, Op.NE, Op.CONTAINS]
    several = [Op.IN, Op.NIN, Op.ANY, Op.ALL]
    keys = st.sampled_from(ODD_KEYS)
    leaf = st.one_of(
        st.builds(one, keys, st.sampled_from(membership), SCALARS),
        st.builds(one, keys, st.sampled_from(several), st.lists(SCALARS, min_size=1, max_size=3)),
        st.builds(
            one,
            keys | st.just("year"),
            st.sampled_from([Op.GT, Op.LT, Op.GTE, Op.LTE]),
            st.sampled_from([0, 1, 5, 4.5, -1.5, 1980, 2000]),
        ),
        st.builds(
            one,
            st.just("genres"),
            st.sampled_from([Op.EQ, Op.NE, Op.CONTAINS, Op.IN]),
            st.sampled_from(["Drama", "Horror", "Opera"]),
        ),
    )
    joint = st.sampled_from([FilterCondition.AND, FilterCondition.OR])
    return st.recursive(
        leaf,
        lambda inner: st.builds(
            lambda parts, condition: MetadataFilters(filters=parts, condition=condition),
            st.lists(inner, min_size=1, max_size=3),
            joint,
        ),
        max_leaves=4,
    )


MIXED = _mixed_items()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, server: str) -> dict[str, ItemCatalog]:
    folder = tmp_path_factory.mktemp("mixed")
    places: dict[str, dict[str, Any]] = {
        "memory": {},
        "folder": {"persist_dir": folder / "chroma"},
        "server": {"url": server, "name": "mixed"},
        "qdrant": {"persist_dir": f"qdrant:{folder / 'qdrant'}"},
        "lancedb": {"persist_dir": f"lancedb:{folder / 'lancedb'}"},
    }
    return {
        kind: ItemCatalog.from_items(MIXED, embed_model=HashingEmbedding(), **places[kind]) for kind in KINDS
    }


@given(_conditions())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_filters_mean_the_same_everywhere(mixed: dict[str, ItemCatalog], filters: MetadataFilters):
    where = parse_filters(filters)
    plain = {item.id: {**item.metadata, "year": item.year, "genres": list(item.genres)} for item in MIXED}
    expected = sorted(item_id for item_id, values in plain.items() if passes(where, values))
    for kind in ("memory", "qdrant", "lancedb"):
        catalog = mixed[kind]
        assert catalog.ids(filters) == expected, kind
        assert sorted(i for i, _ in catalog.retrieve_batch(["T"], 100, filters=filters)[0]) == expected, kind


def test_filters_that_no_store_takes(make_catalog: MakeCatalog):
    catalog = make_catalog(FILMS)
    for filters, message in [
        (one("year", Op.GT, "1990"), "compares with '1990'"),
        (one("year", Op.GTE, True), "compares with True"),
        (one("genres", Op.IN, []), "empty list"),
        (one("genres", Op.EQ, None), "has the value None"),
        (one("title", Op.TEXT_MATCH, "A"), "'text_match' on 'title' is not supported"),
    ]:
        with pytest.raises(InputError, match=message):
            catalog.query("x", filters=filters)
    many = one("genres", Op.IN, [f"genre {n}" for n in range(400)] + ["Horror"])
    assert catalog.ids(many) == ["a"]


def test_encoder_is_checked(place: dict[str, Any], make_catalog: MakeCatalog):
    if "persist_dir" not in place and "url" not in place:
        return  # what is in memory cannot be opened again
    with pytest.raises(StoreNotFoundError, match="there is no"):
        ItemCatalog.open(**place, embed_model=HashingEmbedding())
    make_catalog(FILMS)
    with pytest.raises(EncoderMismatchError, match="dimension 64, not 32"):
        ItemCatalog.open(**place, embed_model=HashingEmbedding(dimension=32))
    with pytest.raises(EncoderMismatchError, match="not 'other'"):
        make_catalog(FILMS, embed_model=HashingEmbedding(model_name="other"))
    with pytest.raises(StoreNotFoundError, match="no catalog 'books'"):
        ItemCatalog.open(**{**place, "name": "books"}, embed_model=HashingEmbedding())
    again = ItemCatalog.open(**place, embed_model=HashingEmbedding())
    assert list(again.items()) == FILMS
    where = {key: value for key, value in place.items() if key != "name"}
    assert place["name"] in ItemCatalog.names(**where)
    again.drop()
    assert place["name"] not in ItemCatalog.names(**where)


class Failing(HashingEmbedding):
    """Gives up after so many batches, as a killed process would."""

    batches: int = 2

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        if not self.batches:
            raise MemoryError("killed")
        self.batches -= 1
        return super()._get_text_embeddings(texts)


def test_interrupted_sync_goes_on(place: dict[str, Any]):
    catalog = ItemCatalog.open(**place, embed_model=Failing(embed_batch_size=1000), create=True)
    with pytest.raises(MemoryError):
        catalog.sync(make(30), batch_size=10)
    assert len(catalog) == 20
    if "persist_dir" in place or "url" in place:
        with pytest.raises(CatalogError, match="half-written: its first sync stopped after 20 items"):
            ItemCatalog.open(**place, embed_model=HashingEmbedding())
        embedding = HashingEmbedding()
        catalog = ItemCatalog.from_items(make(30), **place, embed_model=embedding)
        assert embedding.embedded == 10
        assert list(catalog.items()) == sorted(make(30), key=lambda item: item.id)
        assert len(catalog.query("film", 100)) == 30


@pytest.mark.parametrize("scheme", ["", "qdrant:", "lancedb:"])
def test_writers_wait_however_often_a_folder_is_opened(tmp_path: Path, scheme: str):
    where: dict[str, Any] = {"persist_dir": f"{scheme}{tmp_path}", "embed_model": HashingEmbedding()}
    first = ItemCatalog.from_items(make(3), **where)
    with ThreadPoolExecutor(1) as pool:
        with first.table.writing():
            second = pool.submit(ItemCatalog.open(**where).add, make(5))
            with pytest.raises(StillWaiting):
                second.result(timeout=0.5)
        assert second.result(timeout=60).added == 2


def test_an_index_over_a_catalog_only_reads(make_catalog: MakeCatalog):
    index = make_catalog(FILMS).as_index()
    with pytest.raises(CatalogError, match="only read"):
        index.insert_nodes([FILMS[0].to_node()])
    with pytest.raises(CatalogError, match="only read"):
        index.delete_ref_doc("a")
    with pytest.raises(InputError, match="'mmr' is not supported"):
        index.as_retriever(vector_store_query_mode="mmr").retrieve("alien")


def test_hybrid_search(kind: str, make_catalog: MakeCatalog):
    films = [
        Item(id=str(n), title=f"Film {n}", abstract="A quiet drama." if n != 7 else "A zyzzyva crawls.")
        for n in range(40)
    ]
    catalog = make_catalog(films)
    if kind != "lancedb":
        with pytest.raises(InputError, match="'hybrid' is not supported"):
            catalog.as_retriever(hybrid=True).retrieve("zyzzyva")
        return
    for retriever in (
        catalog.as_retriever(5, hybrid=True),
        catalog.as_index().as_retriever(similarity_top_k=5, vector_store_query_mode="hybrid"),
    ):
        hits = retriever.retrieve("zyzzyva")
        assert "7" in [hit.node_id for hit in hits[:2]]
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    # What comes after the index of words was made is found too, and filters hold.
    catalog.add([Item(id="new", title="Quokka", year=1999)])
    assert "new" in [hit.node_id for hit in catalog.query_hybrid("quokka", 2)]
    recent = one("year", Op.GTE, 1999)
    assert [hit.node_id for hit in catalog.query_hybrid("zyzzyva", filters=recent)] == ["new"]
    with pytest.raises(InputError, match="a query is empty"):
        catalog.query_hybrid(" ")


@pytest.mark.parametrize("scheme", ["qdrant", "lancedb"])
def test_killed_processes(tmp_path: Path, scheme: str):
    store = f"{scheme}:{tmp_path / 'store'}"
    with start_writer(store, 400) as writer:  # type: ignore[arg-type]
        assert writer.stdout is not None
        for _ in range(3):
            assert writer.stdout.readline() == "batch\n"
        if scheme == "qdrant":
            with pytest.raises(CatalogError, match="another process has the folder open") as caught:
                ItemCatalog.open(store, embed_model=HashingEmbedding())
            assert "server" in caught.value.hint
        writer.kill()
    with pytest.raises(CatalogError, match="half-written: its first sync stopped after"):
        ItemCatalog.open(store, embed_model=HashingEmbedding())
    embedding = HashingEmbedding()
    catalog = ItemCatalog.from_items(make(400), persist_dir=store, embed_model=embedding)
    assert 0 < embedding.embedded <= 350
    assert list(catalog.items()) == sorted(make(400), key=lambda item: item.id)
    assert len({item_id for item_id, _ in catalog.retrieve_batch(["film"], 400)[0]}) == 400


def _stock_stores(tmp_path: Path) -> dict[str, Any]:
    from llama_index.vector_stores.lancedb import LanceDBVectorStore
    from llama_index.vector_stores.qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient

    collection = chromadb.PersistentClient(str(tmp_path / "chroma")).create_collection(
        "theirs", configuration={"hnsw": {"space": "l2"}}, embedding_function=None
    )
    return {
        "chroma": ChromaVectorStore(chroma_collection=collection),
        "qdrant": QdrantVectorStore("theirs", client=QdrantClient(":memory:")),
        "lancedb": LanceDBVectorStore(uri=str(tmp_path / "lance"), table_name="theirs"),
    }


@pytest.mark.parametrize("name", ["qdrant", "lancedb"])
def test_vector_stores_of_llamaindex_hold_catalogs(tmp_path: Path, name: str):
    store = _stock_stores(tmp_path)[name]
    catalog = ItemCatalog.from_items(FILMS, vector_store=store, embed_model=HashingEmbedding())
    assert catalog.name == "theirs"
    again = ItemCatalog.from_vector_store(store, embed_model=HashingEmbedding())
    assert list(again.items()) == FILMS
    assert counts(again.sync(FILMS[:3])) == (0, 0, 1, 3)
    # And LlamaIndex reads what was written.
    fresh = type(store)(uri=store.uri, table_name="theirs") if name == "lancedb" else store
    found = fresh.query(
        VectorStoreQuery(query_embedding=HashingEmbedding().get_query_embedding("bambi"), similarity_top_k=1)
    )
    assert Item.from_node(found.nodes[0]) == FILMS[1]
    assert found.nodes[0].get_content() == FILMS[1].text()
    with pytest.raises(InputError, match="both a vector_store and a place"):
        ItemCatalog.open(tmp_path, vector_store=store)


@pytest.mark.parametrize("name", ["chroma", "qdrant", "lancedb"])
def test_stores_that_llamaindex_has_filled(tmp_path: Path, name: str):
    store = _stock_stores(tmp_path)[name]
    ids = [f"00000000-0000-0000-0000-00000000000{n}" for n in range(4)]
    nodes = [
        TextNode(
            id_=item_id,
            text=f"{film.title} film",
            metadata={"title": film.title, "price": float(n), "kind": "film" if n else "short"},
        )
        for n, (item_id, film) in enumerate(zip(ids, FILMS, strict=True))
    ]
    context = StorageContext.from_defaults(vector_store=store)
    index = VectorStoreIndex(nodes, storage_context=context, embed_model=HashingEmbedding())
    if name == "chroma":
        index.insert_nodes([])
    catalog = ItemCatalog.from_vector_store(store, embed_model=HashingEmbedding())
    assert [item.title for item in catalog.items()] == ["Alien", "Bambi", "Casablanca", "Alien"]
    assert catalog.get([ids[1]])[0].metadata == {"price": 1.0, "kind": "film"}
    best = catalog.query("bambi", 1)[0]
    text = HashingEmbedding().get_text_embedding(nodes[1].get_content(metadata_mode="embed"))  # type: ignore[arg-type]
    assert best.node_id == ids[1]
    expected = float(np.dot(text, HashingEmbedding().get_query_embedding("bambi")))
    assert best.score == pytest.approx(expected, abs=1e-4)
    assert catalog.ids(one("price", Op.GTE, 2)) == ids[2:]
    assert catalog.ids(one("kind", Op.NE, "film")) == ids[:1]
    with pytest.raises(InputError, match="'nothing': no item") as caught:
        catalog.ids(one("nothing", Op.NE, "x"))
    assert "price" in caught.value.hint
    assert len(catalog.fingerprint()) == 64
    for write in (
        lambda: catalog.sync(FILMS),
        lambda: catalog.add(FILMS),
        lambda: catalog.remove(ids[:1]),
        catalog.drop,
    ):
        with pytest.raises(CatalogError, match="made elsewhere and is only read"):
            write()
    with pytest.raises(EncoderMismatchError, match="vectors of dimension 64"):
        ItemCatalog.from_vector_store(store, embed_model=HashingEmbedding(dimension=32))


@pytest.mark.parametrize("name", ["chroma", "qdrant", "lancedb"])
def test_collections_of_ones_own_naming(tmp_path: Path, name: str):
    """Filled by LlamaIndex from documents: chunks, numbers as text, titles under a name of their own."""
    store = _stock_stores(tmp_path)[name]
    rows = [
        {
            "label": "Orchard, The (1999)",
            "rating": "8.5",
            "Genres": "['Horror', 'Sci-Fi']",
            "author": "A. Lee",
        },
        {"label": "Lux 3", "rating": "6", "Genres": "Drama", "author": "Bo Ek"},
    ]
    documents = [
        Document(id_=f"0000000{n}-0000-0000-0000-000000000000", text=f"Words {n}. " * 60, metadata=row,
                 excluded_embed_metadata_keys=list(row))
        for n, row in enumerate(rows)
    ]  # fmt: skip
    context = StorageContext.from_defaults(vector_store=store)
    splitter = SentenceSplitter(chunk_size=120, chunk_overlap=0)
    VectorStoreIndex.from_documents(
        documents, storage_context=context, embed_model=HashingEmbedding(), transformations=[splitter]
    )
    catalog = ItemCatalog.from_vector_store(store, embed_model=HashingEmbedding(), title_key="label")
    ids = [document.doc_id for document in documents]
    assert (len(catalog), catalog.ids()) == (2, ids)
    assert catalog.table.inner.count() > 2
    orchard, lux = catalog.get(ids)
    assert (orchard.title, orchard.year, orchard.genres) == ("The Orchard", 1999, ("Horror", "Sci-Fi"))
    assert lux.metadata == {"rating": 6}
    hits = catalog.query("Words 1.", 2)
    assert [Item.from_node(hit.node).id for hit in hits] == [ids[1], ids[0]]
    assert [item_id for item_id, _ in catalog.retrieve_batch(["Words 1."], 5)[0]] == [ids[1], ids[0]]
    assert len(catalog.contents().items) == 2
    for key, operator, value, expected in [
        ("rating", Op.GTE, 8, ids[:1]),
        ("rating", Op.EQ, "6", ids[1:]),
        ("genres", Op.EQ, "Sci-Fi", ids[:1]),
        ("Genres", Op.NE, "Drama", ids[:1]),
        ("label", Op.EQ, "Lux 3", ids[1:]),
        ("authors", Op.NIN, ["A. Lee"], ids[1:]),
        ("id", Op.NIN, [ids[0]], ids[1:]),
        ("year", Op.GT, 1990, ids[:1]),
    ]:
        filters = one(key, operator, value)
        assert catalog.ids(filters) == expected, key
        assert [hit.node_id for hit in catalog.query("x", filters=filters)] == expected, key
    with pytest.raises(InputError, match="'Label'") as caught:
        catalog.query("x", filters=one("Label", Op.NE, "x"))
    assert "rating" in caught.value.hint
    named = ItemCatalog.from_vector_store(
        store, embed_model=HashingEmbedding(), field_names={"title": "label", "designers": "author"}
    )
    assert named.get(ids)[1].makers == {"designer": ("Bo Ek",)}


def test_other_stores_are_refused():
    with pytest.raises(ConfigError, match="cannot be kept in a SimpleVectorStore") as caught:
        ItemCatalog.from_items(FILMS, vector_store=SimpleVectorStore(), embed_model=HashingEmbedding())
    assert "ReGeSRetriever" in caught.value.hint
    with pytest.raises(InputError, match="names no folder"):
        ItemCatalog.open("qdrant:")


def test_a_lance_table_with_other_columns(tmp_path: Path):
    import lancedb

    lancedb.connect(str(tmp_path)).create_table("items", [{"id": "1", "embedding": [0.0, 1.0]}])
    with pytest.raises(CatalogError, match="has the columns id, embedding"):
        ItemCatalog.open(f"lancedb:{tmp_path}", embed_model=HashingEmbedding())


def test_a_damaged_qdrant_folder(tmp_path: Path):
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(CatalogError, match="Qdrant says"):
        ItemCatalog.open(f"qdrant:{tmp_path}", embed_model=HashingEmbedding())


def test_a_newer_format_is_refused(tmp_path: Path):
    store = f"qdrant:{tmp_path}"
    catalog = ItemCatalog.from_items(FILMS, persist_dir=store, embed_model=HashingEmbedding())
    note = catalog.table._note()  # type: ignore[attr-defined]
    catalog.table._client.update_collection(  # type: ignore[attr-defined]
        "items", metadata={"reges": {**json.loads(json.dumps(note)), "format": 4}}
    )
    with pytest.raises(CatalogError, match="catalog format 4, this version reads 3"):
        ItemCatalog.open(store, embed_model=HashingEmbedding())
